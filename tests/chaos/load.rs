//! What a lane puts through the program: records of one flow, and what must then be in its tables. Each flow has a file
//! beside this one. Nothing here reads what the program says of itself.

use std::collections::BTreeMap;
use std::fmt::Debug;

use sluicegate::failpoint::Point;

use crate::support::random::Random;

/// Of every topic.
pub const PARTITIONS: i32 = 4;

/// A record before it is sent.
pub struct Sent {
    pub partition: i32,
    pub key: Option<String>,
    pub payload: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, String)>,
}

impl Sent {
    pub fn plain(partition: i32, payload: Vec<u8>) -> Sent {
        Sent { partition, key: None, payload: Some(payload), headers: Vec::new() }
    }
}

pub trait Load: Send {
    fn flow(&self) -> &'static str;

    /// Rows of the crash table that its records come by.
    fn points(&self) -> Vec<&'static str> {
        Point::ALL.iter().map(|(_, name)| *name).collect()
    }

    /// Keys below `flows.NAME`, beside those that every lane has.
    fn settings(&self) -> Vec<(&'static str, String)>;

    /// Topics that have to be there beside the lane's own.
    fn topics(&self) -> Vec<String> {
        Vec::new()
    }

    /// What is in the database before the first start.
    fn prepare(&self) -> &'static str {
        ""
    }

    /// The next record, and what goes with it. What is aborted must never be seen in a table.
    fn draw(&mut self, random: &mut Random, is_aborted: bool) -> Vec<Sent>;

    /// What is sent behind all others, to be waited for.
    fn last(&mut self, _random: &mut Random) -> Vec<Sent> {
        Vec::new()
    }

    /// How much has become of what was sent, and how much has to.
    fn progress(&mut self, client: &mut postgres::Client) -> Result<(usize, usize), postgres::Error>;

    /// What is wrong in the tables once all is there, in words.
    fn flaw(&mut self, client: &mut postgres::Client) -> Result<Option<String>, postgres::Error>;

    /// Letters for good records are one too; those for bad ones the load looks at itself.
    fn has_letters(&self) -> bool {
        false
    }
}

/// Records that are known by their partition and a number.
#[derive(Default)]
pub struct Numbers {
    next: i32,
    /// Those that were sent for good, by partition.
    kept: BTreeMap<i32, Vec<i32>>,
}

/// One of them.
pub struct Drawn {
    pub partition: i32,
    pub number: i32,
    /// How many came before it in the partition for good.
    pub before: usize,
}

impl Numbers {
    pub fn draw(&mut self, random: &mut Random, is_aborted: bool) -> Drawn {
        let (partition, number) = (random.below(PARTITIONS as u64) as i32, self.next);
        self.next += 1;
        let kept = self.kept.entry(partition).or_default();
        let before = kept.len();
        if !is_aborted {
            kept.push(number);
        }
        Drawn { partition, number, before }
    }

    pub fn count(&self) -> usize {
        self.kept.values().map(Vec::len).sum()
    }

    /// In order.
    pub fn all(&self) -> Vec<(i32, i32)> {
        let of = |(partition, numbers): (&i32, &Vec<i32>)| -> Vec<(i32, i32)> {
            numbers.iter().map(|number| (*partition, *number)).collect()
        };
        self.kept.iter().flat_map(of).collect()
    }
}

pub fn count(client: &mut postgres::Client, sql: &str) -> Result<usize, postgres::Error> {
    Ok(client.query_one(sql, &[])?.get::<_, i64>(0) as usize)
}

/// How what is there differs from what is due. Both are in order.
pub fn difference<T: Ord + Debug>(found: &[T], due: &[T]) -> Option<String> {
    if found == due {
        return None;
    }
    let doubled: Vec<_> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    let lost: Vec<_> = due.iter().filter(|row| found.binary_search(row).is_err()).collect();
    let strange: Vec<_> = found.iter().filter(|row| due.binary_search(row).is_err()).collect();
    Some(format!("doubled {doubled:?}, lost {lost:?}, never produced or aborted {strange:?}"))
}
