//! The smallest client that reads answers strictly.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long a test waits for what must come; nothing is measured by it.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.header("Content-Type"), Some("application/json"));
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The code of an error, once it has all that an error has.
    pub fn error(&self) -> String {
        let error = &self.json()["error"];
        for part in ["code", "message", "cure"] {
            assert!(error[part].as_str().is_some_and(|text| !text.is_empty()), "{part} in {}", self.body);
        }
        error["code"].as_str().unwrap().to_string()
    }
}

/// A connection that is kept.
pub struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(addr: SocketAddr) -> Connection {
        Connection::on(TcpStream::connect_timeout(&addr, PATIENCE).unwrap())
    }

    fn on(stream: TcpStream) -> Connection {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection { reader: BufReader::new(stream) }
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.reader.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    pub fn read(&mut self, to_head: bool) -> Response {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let status = line.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("status line {line:?}"));
        let status = status[..3].parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).unwrap();
            match line.strip_suffix("\r\n").unwrap().split_once(": ") {
                Some((name, value)) => headers.push((name.to_string(), value.to_string())),
                None => break assert_eq!(line, "\r\n"),
            }
        }
        let mut response = Response { status, headers, body: String::new() };
        let length: usize = response.header("Content-Length").expect("a length").parse().unwrap();
        if !to_head {
            let mut body = vec![0; length];
            self.reader.read_exact(&mut body).unwrap();
            response.body = String::from_utf8(body).unwrap();
        }
        response
    }

    pub fn ask(&mut self, method: &str, target: &str) -> Response {
        self.write(format!("{method} {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.read(method == "HEAD")
    }

    /// JSON, under a key where there is one.
    pub fn send(&mut self, method: &str, target: &str, key: Option<&str>, body: &str) -> Response {
        let key = key.map_or(String::new(), |key| format!("Idempotency-Key: {key}\r\n"));
        let length = body.len();
        self.write(format!(
            "{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{key}Content-Length: {length}\r\n\r\n{body}"
        ));
        self.read(false)
    }

    /// True when the server has ended the connection, and said nothing more before.
    pub fn is_over(&mut self) -> bool {
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest).is_ok() && rest.is_empty()
    }
}

/// `/health` has to answer a new client within a second, whatever others do. One that the machine itself held up for so long,
/// or that was the one to go among too many, asks again.
pub fn health(addr: SocketAddr) -> Response {
    const IN_TIME: Duration = Duration::from_secs(1);
    let asked = || {
        let mut stream = TcpStream::connect_timeout(&addr, IN_TIME)?;
        stream.set_read_timeout(Some(IN_TIME))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")?;
        match stream.peek(&mut [0])? {
            0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)),
            _ => Ok(Connection::on(stream)),
        }
    };
    let asked = asked().or_else(|_| asked()).or_else(|_| asked());
    asked.expect("/health answers in time").read(false)
}

pub fn ask(addr: SocketAddr, method: &str, target: &str) -> Response {
    Connection::open(addr).ask(method, target)
}

pub fn get(addr: SocketAddr, target: &str) -> Response {
    ask(addr, "GET", target)
}

pub fn post(addr: SocketAddr, target: &str) -> Response {
    ask(addr, "POST", target)
}
