//! A producer without manners: record sets made byte by byte, with any bytes as keys and as names of headers, and
//! compressed streams that unfold to far more than their size. No library would write them; a broker takes them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use sluicegate::decode::avro::write::long;

use super::wait_for;

#[derive(Clone, Copy, Debug)]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// A part of a stream before it is compressed.
enum Piece {
    Bytes(Vec<u8>),
    Zeros(usize),
}

pub type Headers = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// One record as it is, alone in its set.
pub fn record(key: Option<&[u8]>, payload: Option<&[u8]>, headers: &Headers) -> Vec<u8> {
    let mut out = Vec::new();
    append(&mut out, 0, key, payload, headers);
    set(Codec::None, 1, &out)
}

/// A set of records that have payloads only.
pub fn records(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, payload) in payloads.iter().enumerate() {
        append(&mut out, number as i64, None, Some(payload), &Headers::new());
    }
    set(Codec::None, payloads.len(), &out)
}

fn append(out: &mut Vec<u8>, number: i64, key: Option<&[u8]>, payload: Option<&[u8]>, headers: &Headers) {
    let mut body = vec![0]; // attributes
    long(&mut body, 0); // time and offset, as differences to those of the set
    long(&mut body, number);
    for part in [key, payload] {
        nullable(&mut body, part);
    }
    long(&mut body, headers.len() as i64);
    for (name, value) in headers {
        nullable(&mut body, Some(name));
        nullable(&mut body, value.as_deref());
    }
    long(out, body.len() as i64);
    out.extend_from_slice(&body);
}

/// A set of `count` records whose payloads are `size` zeros each.
pub fn bomb(codec: Codec, count: usize, size: usize) -> Vec<u8> {
    let mut pieces = Vec::new();
    for number in 0..count {
        let mut head = vec![0];
        long(&mut head, 0);
        long(&mut head, number as i64);
        long(&mut head, -1); // no key
        long(&mut head, size as i64);
        let mut start = Vec::new();
        long(&mut start, (head.len() + size + 1) as i64);
        start.extend_from_slice(&head);
        pieces.extend([Piece::Bytes(start), Piece::Zeros(size), Piece::Bytes(vec![0])]); // and no header
    }
    let packed = match codec {
        Codec::None => panic!("a bomb is packed"),
        Codec::Gzip => gzip(&pieces),
        Codec::Snappy => snappy(&pieces),
        Codec::Lz4 => lz4(&pieces),
        Codec::Zstd => zstd(&pieces),
    };
    set(codec, count, &packed)
}

fn nullable(out: &mut Vec<u8>, part: Option<&[u8]>) {
    long(out, part.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(part.unwrap_or_default());
}

/// A record set of the second format around records that are packed already.
fn set(codec: Codec, count: usize, records: &[u8]) -> Vec<u8> {
    let now_ms = std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_millis() as i64);
    let mut tail = Vec::new();
    tail.extend_from_slice(&(codec as i16).to_be_bytes());
    tail.extend_from_slice(&(count as i32 - 1).to_be_bytes());
    tail.extend_from_slice(&now_ms.to_be_bytes());
    tail.extend_from_slice(&now_ms.to_be_bytes());
    tail.extend_from_slice(&[0xff; 8 + 2 + 4]); // no producer that could be told from others
    tail.extend_from_slice(&(count as i32).to_be_bytes());
    tail.extend_from_slice(records);
    let mut out = Vec::new();
    out.extend_from_slice(&0i64.to_be_bytes());
    out.extend_from_slice(&(tail.len() as i32 + 4 + 1 + 4).to_be_bytes());
    out.extend_from_slice(&(-1i32).to_be_bytes());
    out.push(2);
    out.extend_from_slice(&crc(0x82f6_3b78, [&tail[..]]).to_be_bytes());
    out.extend_from_slice(&tail);
    out
}

/// Hands a set over and gives the offset of its first record. A topic that was just made may have no leader yet.
pub fn produce(brokers: &str, topic: &str, partition: i32, set: &[u8]) -> i64 {
    const UNKNOWN: i16 = 3;
    const NOT_LEADER: i16 = 6;
    wait_for("a leader", Duration::from_secs(60), || {
        match try_produce(brokers, topic, partition, set).expect("a broker") {
            (0, offset) => Some(offset),
            (UNKNOWN | NOT_LEADER, _) => None,
            (code, _) => panic!("the broker refused a set of {} bytes with code {code}", set.len()),
        }
    })
}

/// One produce request, version 7, and what the answer says.
pub fn try_produce(brokers: &str, topic: &str, partition: i32, set: &[u8]) -> std::io::Result<(i16, i64)> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend_from_slice(&(text.len() as i16).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    let mut request = vec![0, 0, 0, 7, 0, 0, 0, 1]; // produce, version 7, and a number to know the answer by
    text(&mut request, "hostile");
    request.extend_from_slice(&[0xff, 0xff, 0xff, 0xff]); // in no transaction, for all replicas
    request.extend_from_slice(&60_000i32.to_be_bytes());
    request.extend_from_slice(&1i32.to_be_bytes());
    text(&mut request, topic);
    request.extend_from_slice(&1i32.to_be_bytes());
    request.extend_from_slice(&partition.to_be_bytes());
    request.extend_from_slice(&(set.len() as i32).to_be_bytes());
    request.extend_from_slice(set);
    let mut broker = TcpStream::connect(brokers)?;
    broker.set_read_timeout(Some(Duration::from_secs(60)))?;
    broker.write_all(&(request.len() as i32).to_be_bytes())?;
    broker.write_all(&request)?;
    let mut size = [0; 4];
    broker.read_exact(&mut size)?;
    let mut answer = vec![0; i32::from_be_bytes(size) as usize];
    broker.read_exact(&mut answer)?;
    // Behind the number, the counts, the topic's name and the partition.
    let rest = &answer[4 + 4 + 2 + topic.len() + 4 + 4..];
    let offset = i64::from_be_bytes(rest[2..10].try_into().expect("eight bytes"));
    Ok((i16::from_be_bytes([rest[0], rest[1]]), offset))
}

/// CRC-32 with the bits of a polynomial turned round.
fn crc<'a>(polynomial: u32, parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|byte| (0..8).fold(byte, |rest, _| if rest & 1 == 1 { rest >> 1 ^ polynomial } else { rest >> 1 }))
        .collect();
    let add = |sum: u32, byte: &u8| sum >> 8 ^ table[(sum as u8 ^ byte) as usize];
    !parts.into_iter().fold(!0, |sum, part| part.iter().fold(sum, add))
}

/// Four repetitions of 258 bytes in each byte of the stream: 1,032 to 1.
fn gzip(pieces: &[Piece]) -> Vec<u8> {
    const ZEROS: &[u8] = &[0; 1 << 16];
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let (mut bits, mut unpacked) = (Bits { out: &mut out, rest: 0, count: 0 }, Vec::new());
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => {
                bits.stored(bytes);
                unpacked.push(&bytes[..]);
            }
            Piece::Zeros(count) => {
                let repeated = (count - 1) / 258;
                // Codes of its own: 0 repeats 258 bytes, 10 is a zero, 11 is the end; the one distance is 0.
                bits.put(0b100, 3);
                for (value, width) in [(29, 5), (0, 5), (14, 4)] {
                    bits.put(value, width);
                }
                for width in [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2] {
                    bits.put(width, 3);
                }
                // 2, 255 times nothing, 2, 28 times nothing, 1, and 1 for the distance.
                for (code, width) in [(0b11, 2), (0, 1), (127, 7), (0, 1), (106, 7), (0b11, 2), (0, 1), (17, 7)] {
                    bits.put(code, width);
                }
                (0..2).for_each(|_| bits.put(0b01, 2));
                bits.put(0b01, 2); // one zero, and then that
                (0..repeated).for_each(|_| bits.put(0, 2));
                bits.put(0b11, 2);
                bits.stored(&ZEROS[..(count - 1) % 258]);
                unpacked.extend(std::iter::repeat_n(ZEROS, count / ZEROS.len()));
                unpacked.push(&ZEROS[..count % ZEROS.len()]);
            }
        }
    }
    bits.put(0b011, 3); // a last block with nothing in it
    bits.put(0, 7);
    bits.align();
    let size: usize = unpacked.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&crc(0xedb8_8320, unpacked).to_le_bytes());
    out.extend_from_slice(&(size as u32).to_le_bytes());
    out
}

/// Bits in deflate's order, the lowest first.
struct Bits<'a> {
    out: &'a mut Vec<u8>,
    rest: u32,
    count: u32,
}

impl Bits<'_> {
    fn put(&mut self, value: u32, width: u32) {
        self.rest |= value << self.count;
        self.count += width;
        while self.count >= 8 {
            self.out.push(self.rest as u8);
            self.rest >>= 8;
            self.count -= 8;
        }
    }

    fn align(&mut self) {
        self.put(0, (8 - self.count) % 8);
    }

    fn stored(&mut self, bytes: &[u8]) {
        self.put(0, 3);
        self.align();
        self.out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        self.out.extend_from_slice(&(!(bytes.len() as u16)).to_le_bytes());
        self.out.extend_from_slice(bytes);
    }
}

/// Copies of 64 bytes in three: 21 to 1. Framed as Java frames it.
fn snappy(pieces: &[Piece]) -> Vec<u8> {
    let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    let mut chunk = |unpacked: usize, elements: &[u8]| {
        let mut size = Vec::new();
        let mut rest = unpacked;
        while rest >= 0x80 {
            size.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        size.push(rest as u8);
        out.extend_from_slice(&((size.len() + elements.len()) as i32).to_be_bytes());
        out.extend_from_slice(&size);
        out.extend_from_slice(elements);
    };
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => chunk(bytes.len(), &[&[(bytes.len() as u8 - 1) << 2], &bytes[..]].concat()),
            Piece::Zeros(count) => {
                let copies = (count - 1) / 64;
                let rest = (count - 1) % 64;
                let mut elements = vec![0, 0];
                elements.extend(std::iter::repeat_n([63 << 2 | 2, 1, 0], copies).flatten());
                if rest > 0 {
                    elements.extend([(rest as u8 - 1) << 2 | 2, 1, 0]);
                }
                chunk(*count, &elements);
            }
        }
    }
    out
}

/// A repetition whose length is a run of 255s: 255 to 1.
fn lz4(pieces: &[Piece]) -> Vec<u8> {
    const BLOCK_MAX: usize = 4 << 20;
    let mut out = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73];
    let plain = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32 | 1 << 31).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => plain(&mut out, bytes),
            Piece::Zeros(count) => {
                let mut left = *count;
                while left > 0 {
                    let size = left.min(BLOCK_MAX);
                    left -= size;
                    if size < 64 {
                        plain(&mut out, &vec![0; size]);
                        continue;
                    }
                    // A zero, its repetition, and five zeros by themselves, as every block must end.
                    let more = size - 1 - 5 - 4 - 15;
                    let mut block = vec![0x1f, 0, 1, 0];
                    block.extend(std::iter::repeat_n(0xff, more / 255));
                    block.push((more % 255) as u8);
                    block.extend([0x50, 0, 0, 0, 0, 0]);
                    out.extend_from_slice(&(block.len() as u32).to_le_bytes());
                    out.extend_from_slice(&block);
                }
            }
        }
    }
    out.extend_from_slice(&[0; 4]);
    out
}

/// Blocks of 128 KiB in four bytes: 32,768 to 1.
fn zstd(pieces: &[Piece]) -> Vec<u8> {
    const BLOCK_MAX: usize = 128 << 10;
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 7 << 3];
    let mut block = |is_last: bool, kind: u32, size: usize, bytes: &[u8]| {
        let head = u32::from(is_last) | kind << 1 | (size as u32) << 3;
        out.extend_from_slice(&head.to_le_bytes()[..3]);
        out.extend_from_slice(bytes);
    };
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => block(false, 0, bytes.len(), bytes),
            Piece::Zeros(count) => {
                for start in (0..*count).step_by(BLOCK_MAX) {
                    block(false, 1, BLOCK_MAX.min(count - start), &[0]);
                }
            }
        }
    }
    block(true, 0, 0, &[]);
    out
}
