//! The body of a request while it is collected, and the room that all bodies share. What a client only promises to send
//! costs nothing.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many bytes of bodies may be held at once, those that wait to be dealt with included.
#[derive(Debug)]
pub(super) struct Room {
    free: AtomicUsize,
}

impl Room {
    pub fn new(bytes: usize) -> Arc<Room> {
        Arc::new(Room { free: AtomicUsize::new(bytes) })
    }
}

/// What a client sent. Its room is free again when it is dropped.
#[derive(Debug, Default)]
pub struct Body {
    bytes: Vec<u8>,
    /// None for one that was not sent by a client.
    room: Option<Arc<Room>>,
}

impl Body {
    pub(super) fn new(room: &Arc<Room>) -> Body {
        Body { bytes: Vec::new(), room: Some(room.clone()) }
    }

    /// False where there is no room for it.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        if let Some(room) = &self.room {
            let less = |free: usize| free.checked_sub(bytes.len());
            if room.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_err() {
                return false;
            }
        }
        self.bytes.extend_from_slice(bytes);
        true
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body { bytes, room: None }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(room) = &self.room {
            room.free.fetch_add(self.bytes.len(), Ordering::AcqRel);
        }
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Body) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Body {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_share_their_room_and_give_it_back() {
        let room = Room::new(10);
        let (mut one, mut two) = (Body::new(&room), Body::new(&room));
        assert!(one.push(b"abcd") && two.push(b"efgh") && !one.push(b"ijk") && one.push(b"ij"));
        assert_eq!((&*one, &*two), (&b"abcdij"[..], &b"efgh"[..]));
        drop(one);
        assert!(two.push(b"123456") && !two.push(b"7"));
        assert!(Body::from(vec![0; 100]).push(&[0; 100]));
    }
}
