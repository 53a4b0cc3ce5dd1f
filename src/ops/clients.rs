//! Who is connected, and who has to go when one more comes: the client that the server has waited for the
//! longest, be it for a request, for the rest of one, or for an answer to be taken. A client whose answer is being
//! made is never cut off, and neither is one that was waited for a moment only: its request may be on its way.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Nobody goes before the server has waited this long. New clients get in at the rate of the limit over this, however
/// many are silent.
const GRACE: Duration = Duration::from_millis(10);

/// The open connections, up to a limit.
pub(super) struct Clients {
    table: Mutex<Table>,
    /// Notified when a client leaves, when one begins to be waited for, and at the end of everything.
    changed: Condvar,
    limit: usize,
}

#[derive(Default)]
struct Table {
    seats: HashMap<u64, Seat>,
    /// How many of them were told to go.
    leaving: usize,
    next_number: u64,
    /// Somebody waits for a seat: connections are not kept beyond their answer.
    crowded: bool,
    ended: bool,
}

struct Seat {
    stream: Arc<TcpStream>,
    /// Since when the client is waited for. None while its answer is being made.
    waiting_since: Option<Instant>,
    evicted: bool,
}

/// The seat of one client, given back when this is dropped.
pub(super) struct Place {
    clients: Arc<Clients>,
    number: u64,
}

impl Clients {
    pub fn new(limit: usize) -> Arc<Clients> {
        Arc::new(Clients { table: Mutex::default(), changed: Condvar::new(), limit })
    }

    /// Returns once there is a free seat, or everything has ended. To be called by one thread, which admits.
    /// Those who are told to go need not have gone, only not be too many: in a flood each waking of a thread
    /// that is waited for would cost more than all else.
    pub fn make_room(&self) {
        let mut table = self.table();
        while !table.ended && (table.staying() >= self.limit || table.leaving >= self.limit) {
            if table.staying() < self.limit || !table.evict() {
                table = self.changed_after(table, GRACE);
            }
        }
        table.crowded = false;
    }

    /// Returns once a client has left, or after `wait`; where there is none, after `wait`.
    pub fn lose_one(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut table = self.table();
        let taken = table.seats.len();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if table.ended || table.seats.len() < taken || left.is_zero() {
                break;
            }
            if table.leaving == 0 {
                table.evict();
            }
            table = self.changed_after(table, left.min(GRACE));
        }
        table.crowded = false;
    }

    fn changed_after<'a>(&self, mut table: MutexGuard<'a, Table>, wait: Duration) -> MutexGuard<'a, Table> {
        table.crowded = true;
        self.changed.wait_timeout(table, wait).unwrap_or_else(PoisonError::into_inner).0
    }

    /// None once everything has ended.
    pub fn admit(self: &Arc<Self>, stream: Arc<TcpStream>) -> Option<Place> {
        let mut table = self.table();
        if table.ended {
            return None;
        }
        let number = table.next_number;
        table.next_number += 1;
        table.seats.insert(number, Seat { stream, waiting_since: None, evicted: false });
        Some(Place { clients: self.clone(), number })
    }

    /// Admits nobody any more. An idle connection ends at once, a busy one after its answer.
    pub fn end(&self) {
        let mut table = self.table();
        table.ended = true;
        table.shut(Shutdown::Read);
        self.changed.notify_all();
    }

    pub fn cut_off(&self) {
        self.table().shut(Shutdown::Both);
    }

    /// What the lock guards is whole between any two statements.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn staying(&self) -> usize {
        self.seats.len() - self.leaving
    }

    /// Begins to cut off the client that is waited for the longest. False when nobody may be.
    fn evict(&mut self) -> bool {
        let staying = self.seats.values_mut().filter(|seat| !seat.evicted);
        let waiting = staying.filter_map(|seat| seat.waiting_since.map(|since| (since, seat)));
        let Some((since, seat)) = waiting.min_by_key(|(since, _)| *since) else { return false };
        if since.elapsed() < GRACE {
            return false;
        }
        seat.evicted = true;
        // Its thread waits in a read or a write, and both end here.
        drop(seat.stream.shutdown(Shutdown::Both));
        self.leaving += 1;
        true
    }

    fn shut(&self, how: Shutdown) {
        self.seats.values().for_each(|seat| drop(seat.stream.shutdown(how)));
    }
}

impl Place {
    /// From now on the server waits for the client.
    pub fn wait(&self) {
        self.set(Some(Instant::now()));
        self.clients.changed.notify_all();
    }

    /// From now on the client waits for the server. False when it was cut off before.
    pub fn work(&self) -> bool {
        self.set(None)
    }

    /// Whether the connection may be kept for one more request.
    pub fn may_stay(&self) -> bool {
        let table = self.clients.table();
        !table.crowded && !table.ended
    }

    fn set(&self, waiting_since: Option<Instant>) -> bool {
        let mut table = self.clients.table();
        let Some(seat) = table.seats.get_mut(&self.number) else { return false };
        seat.waiting_since = waiting_since;
        !seat.evicted
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // With the last handle of the connection: who waits for the seat may be in need of its descriptor.
        let seat = {
            let mut table = self.clients.table();
            let seat = table.seats.remove(&self.number);
            table.leaving -= usize::from(seat.as_ref().is_some_and(|seat| seat.evicted));
            seat
        };
        drop(seat);
        self.clients.changed.notify_all();
    }
}
