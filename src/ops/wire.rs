//! An `Answer` as it goes over the wire.

use std::io::Cursor;

use tiny_http::{HTTPVersion, Header, Response};

use super::api::Answer;

pub(super) fn response(answer: Answer) -> Response<Cursor<Vec<u8>>> {
    let fixed =
        [("Content-Type", answer.content_type), ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")];
    let own = answer.headers.iter().map(|(name, value)| (*name, value.as_str()));
    // The length is known: chunks are never needed, and HTTP/1.0 does not know them.
    let mut response =
        Response::from_data(answer.body).with_status_code(answer.status).with_chunked_threshold(usize::MAX);
    for (name, value) in fixed.into_iter().chain(own) {
        response.add_header(Header::from_bytes(name, value).expect("headers are plain ASCII"));
    }
    response
}

/// An answer as it goes over the wire, for what never reaches tiny_http.
pub(super) fn bytes(answer: Answer, to_head: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let printed = response(answer).raw_print(&mut bytes, HTTPVersion(1, 1), &[], to_head, None);
    printed.expect("a vector takes everything");
    bytes
}

/// Tells the client that the connection ends with this answer, so that it does not send the next request in vain.
pub(super) fn say_close(bytes: &mut Vec<u8>) {
    if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
        bytes.splice(end..end, *b"\r\nConnection: close");
    }
}
