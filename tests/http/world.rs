//! A server with made-up tracks and made-up test data.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sluicegate::fault::Fault;
use sluicegate::ops::{Api, Sent, Server, Service, SinkFacts, TestData};
use sluicegate::record::Partition;
use sluicegate::track::{PartitionState, PartitionTrack, Track};

use crate::client::{PATIENCE, get, health};

pub const SEND: &str = "/send-test-data-concurrently";
pub const HANDLERS: usize = 4;

/// What the next sends do.
#[derive(Clone)]
pub enum Mode {
    Succeed,
    Refuse,
    Panic,
    /// Says that it has begun, and waits for a word.
    Stick(Sender<()>, Arc<Mutex<Receiver<()>>>),
}

pub struct Data {
    pub track: Arc<Track>,
    pub mode: Mutex<Mode>,
    pub sent: Mutex<Vec<(String, u64)>>,
}

impl Data {
    pub fn new(track: Arc<Track>) -> Arc<Data> {
        Arc::new(Data { track, mode: Mutex::new(Mode::Succeed), sent: Mutex::default() })
    }
}

impl TestData for Data {
    fn send(&self, flow: &str, count: u64) -> Result<Sent, Fault> {
        // The lock is given back before anything panics or waits.
        let mode = self.mode.lock().unwrap().clone();
        match mode {
            Mode::Succeed => {}
            Mode::Refuse => return Err(Fault::retry("kafka_unreachable", "no broker answers at [::1]:1")),
            Mode::Panic => panic!("test data is out of order"),
            Mode::Stick(begun, go) => {
                begun.send(()).unwrap();
                go.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            }
        }
        self.sent.lock().unwrap().push((flow.to_string(), count));
        self.track.produced.add(count);
        Ok(Sent { count, failed: 0, elapsed: Duration::from_millis(500) })
    }
}

pub struct World {
    pub server: Option<Server>,
    pub addr: SocketAddr,
    pub track: Arc<Track>,
    pub partition: Arc<PartitionTrack>,
    pub data: Arc<Data>,
}

/// Two flows; `status` has one partition that runs, with 2 of 10 records left.
pub fn world() -> World {
    world_with(Vec::new())
}

pub fn world_with(services: Vec<Arc<dyn Service>>) -> World {
    let (track, other) = (Track::new("status"), Track::new("cdc"));
    let partition = track.add_partition(&Partition::new("seed-status-updates", 7));
    partition.set_state(PartitionState::Running);
    partition.next_offset.set(8);
    partition.end_offset.set(10);
    other.joined();
    let data = Data::new(track.clone());
    let sink = SinkFacts { database: Some("target_db".to_owned()), sessions_max: 10 };
    let api = Api::new(vec![track.clone(), other], data.clone(), services, sink, Arc::default());
    let server = Server::start("127.0.0.1:0", api, HANDLERS).unwrap();
    World { addr: server.local_addr(), server: Some(server), track, partition, data }
}

impl World {
    pub fn set(&self, mode: Mode) {
        *self.data.mode.lock().unwrap() = mode;
    }

    /// The server is still there, and nothing that came before is in its way.
    pub fn lives(&self) {
        assert_eq!(get(self.addr, "/health/live").status, 200);
    }

    /// `/health` answers new clients while the load is on, again and again, and after it.
    pub fn withstands(&self, load: impl FnOnce() + Send) {
        // Each load by itself: what is asked for is an answer in time, and the tests share the processors.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        thread::scope(|scope| {
            let load = scope.spawn(load);
            loop {
                let was_last = load.is_finished();
                assert_eq!(health(self.addr).status, 200);
                if was_last {
                    break;
                }
            }
            load.join().unwrap();
        });
    }
}
