//! tiny_http where only the gate reaches it: behind a socket in a directory of its own.

use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Between looks at what became of this tiny_http while an answer is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One incarnation of tiny_http.
pub struct Inner {
    pub server: tiny_http::Server,
    pub number: u64,
    /// After `server`, which needs its socket once more to end.
    pub dir: PrivateDir,
}

impl Inner {
    pub fn bind(number: u64) -> io::Result<Arc<Inner>> {
        let dir = PrivateDir::create()?;
        let listener = UnixListener::bind(dir.socket())?;
        let server = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        Ok(Arc::new(Inner { server, number, dir }))
    }

    /// Answers with the response as it goes over the wire. Until it is there, `wait_on` is asked now and then
    /// whether to wait any longer.
    pub fn ask(&self, method: &str, target: &str, wait_on: impl Fn() -> bool) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(self.dir.socket())?;
        write!(stream, "{method} {target} HTTP/1.1\r\nConnection: close\r\n\r\n")?;
        stream.set_read_timeout(Some(LOOK_EVERY))?;
        let mut response = Vec::with_capacity(4096);
        loop {
            match stream.read_to_end(&mut response) {
                Ok(_) => return Ok(response),
                // What was read so far is in there.
                Err(error) if is_time_out(&error) && wait_on() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_time_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A directory that only this user may enter: the socket in it takes requests that did not pass the gate.
pub struct PrivateDir(PathBuf);

impl PrivateDir {
    fn create() -> io::Result<PrivateDir> {
        // Random enough for a name; should it be taken all the same, `create` says so.
        let dir = std::env::temp_dir().join(format!("sluicegate-{:016x}", RandomState::new().hash_one(0)));
        let made = DirBuilder::new().mode(0o700).create(&dir);
        made.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot make {} (TMPDIR says where): {error}", dir.display()))
        })?;
        Ok(PrivateDir(dir))
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("http.sock")
    }

    pub fn remove(&self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        self.remove();
    }
}
