//! Groups that others use, for the metrics: how far those that somebody has named are behind, looked at now and then on a
//! thread of its own. What is not known has no sample.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::engine::{Clock, Stop};
use crate::fault::Cause;
use crate::kafka::lag::{Lag, Place};
use crate::track::{GroupLag, Groups};

/// Each look reads a record of every partition that is behind.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Does so until the order to stop, where there are such groups. Nobody waits for its end: a look may take as long as a broker.
pub fn start(config: &Config, groups: Arc<Groups>, clock: &Clock, stop: Stop) -> Result<(), Cause> {
    let (kafka, names) = (&config.kafka, config.lag.groups.clone());
    if names.is_empty() {
        return Ok(());
    }
    let lag = Lag::new(&kafka.brokers.join(","), &kafka.options, kafka.request_timeout)?;
    clock.spawn("groups".to_owned(), move || {
        let mut troubles: BTreeMap<&str, String> = BTreeMap::new();
        while !stop.asked() {
            for name in names.iter().take_while(|_| !stop.asked()) {
                match lag.of(name) {
                    Ok(places) => {
                        troubles.remove(name.as_str());
                        groups.set(name, places.into_iter().filter_map(of_place).collect());
                    }
                    Err(fault) => {
                        groups.set(name, Vec::new());
                        let Cause { code, text } = fault.into_cause();
                        // Once for each kind of trouble, not once for each time that it is met.
                        if troubles.insert(name, code.to_string()).as_deref() != Some(&code) {
                            log::warn!(group = name.as_str(), code = &*code; "how far it is behind is not known: {text}");
                        }
                    }
                }
            }
            stop.pause(LOOK_EVERY);
        }
    });
    Ok(())
}

fn of_place(place: Place) -> Option<GroupLag> {
    Some(GroupLag { partition: place.partition, records: place.lag_records?, behind_ms: place.lag_ms })
}
