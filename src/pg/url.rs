//! Where PostgreSQL is and how far its certificate is trusted, out of a URL with libpq's meaning of
//! `sslmode`. The postgres crate knows neither `verify-ca` nor `verify-full`, nor files with certificates:
//! those are taken out here, and `tls` makes a connector of them. No error and no text from here holds a password.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use postgres::config::{Host, SslMode};
use serde::Deserialize;

#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct Target {
    pub config: postgres::Config,
    pub tls: Tls,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub mode: Mode,
    /// Certificates to trust, in place of `~/.postgresql/root.crt` or the system's.
    pub root: Option<PathBuf>,
    /// What this client shows of itself, and the key to it.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    Disable,
    /// TLS if the server offers it; an attacker can talk it out of it.
    #[default]
    Prefer,
    /// TLS with whoever answers, unless certificates to trust are named: then as `VerifyCa`, like libpq.
    Require,
    /// A certificate from somebody we trust, for any host.
    VerifyCa,
    /// And for this host.
    VerifyFull,
}

const MODES: [(&str, Mode); 5] = [
    ("disable", Mode::Disable),
    ("prefer", Mode::Prefer),
    ("require", Mode::Require),
    ("verify-ca", Mode::VerifyCa),
    ("verify-full", Mode::VerifyFull),
];

impl Target {
    pub fn parse(url: &str) -> Result<Target, String> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or("must start with postgres:// or postgresql://")?;
        let after_password = rest.find('@').map_or(0, |at| at + 1);
        // The end of a password with an `@` in it would be taken for the host, and shown.
        if rest[after_password..].contains('@') {
            return Err("has a second @: write it as %40".to_owned());
        }
        let (base, query) = match rest[after_password..].find('?') {
            Some(mark) => (&rest[..after_password + mark], &rest[after_password + mark + 1..]),
            None => (rest, ""),
        };

        let mut tls = Tls::default();
        let mut others = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or("has an option without =")?;
            match name {
                "sslmode" => {
                    let known = MODES.iter().find(|(word, _)| *word == value);
                    let words = || MODES.map(|(word, _)| word).join(", ");
                    tls.mode = known.ok_or_else(|| format!("has an sslmode other than {}", words()))?.1;
                }
                "sslrootcert" => tls.root = Some(path_of(value)?),
                "sslcert" => tls.certificate = Some(path_of(value)?),
                "sslkey" => tls.key = Some(path_of(value)?),
                _ => others.push(option),
            }
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            return Err("has one of sslcert and sslkey: both or neither".to_owned());
        }

        let mut config: postgres::Config = format!("postgres://{base}?{}", others.join("&"))
            .parse()
            .map_err(|error: postgres::Error| error.source().unwrap_or(&error).to_string())?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("names no host".to_owned());
        }
        if !matches!(config.get_ports().len(), 0 | 1) && config.get_ports().len() != config.get_hosts().len() {
            return Err("has another number of ports than of hosts".to_owned());
        }
        // Nobody listens in on a local socket, and the server offers no TLS there. As libpq does.
        let local = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        if local && config.get_hostaddrs().is_empty() {
            tls.mode = Mode::Disable;
        }
        config.ssl_mode(match tls.mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        Ok(Target { config, tls })
    }
}

/// The URL again, with `***` for the password.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        write!(f, "postgres://")?;
        if let Some(user) = config.get_user() {
            let password = if config.get_password().is_some() { ":***" } else { "" };
            write!(f, "{user}{password}@")?;
        }
        let named = config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) if name.contains(':') => format!("[{name}]"),
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let hosts: Vec<String> = match config.get_hosts() {
            [] => config.get_hostaddrs().iter().map(|address| address.to_string()).collect(),
            _ => named.collect(),
        };
        let ports = config.get_ports();
        for (i, host) in hosts.iter().enumerate() {
            let port = ports.get(i).or(ports.first()).unwrap_or(&5432);
            write!(f, "{}{host}:{port}", if i > 0 { "," } else { "" })?;
        }
        if let Some(name) = config.get_dbname() {
            write!(f, "/{name}")?;
        }
        let mode = MODES.iter().find(|(_, mode)| *mode == self.tls.mode).map_or("", |(word, _)| word);
        write!(f, "?sslmode={mode}")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(url: String) -> Result<Target, String> {
        Target::parse(&url)
    }
}

fn path_of(value: &str) -> Result<PathBuf, String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| (digit? as char).to_digit(16));
                let [Some(high), Some(low)] = digits else { return Err("has % without two hex digits".to_owned()) };
                (high * 16 + low) as u8
            }
            _ => byte,
        });
    }
    String::from_utf8(bytes).map(PathBuf::from).map_err(|_| "has a path that is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> String {
        Target::parse(url).map_or_else(|error| error, |target| target.to_string())
    }

    #[test]
    fn a_url_of_the_replaced_system_is_read_whole() {
        let target =
            Target::parse("postgres://postgres:your_password@localhost:5432/processed_data_db?sslmode=disable")
                .unwrap();
        assert_eq!(target.config.get_user(), Some("postgres"));
        assert_eq!(target.config.get_password(), Some(&b"your_password"[..]));
        assert_eq!(target.config.get_dbname(), Some("processed_data_db"));
        assert_eq!(target.config.get_ssl_mode(), SslMode::Disable);
        assert_eq!(target.to_string(), "postgres://postgres:***@localhost:5432/processed_data_db?sslmode=disable");
    }

    #[test]
    fn sslmode_is_prefer_when_not_given_and_what_postgres_does_not_know_is_taken_out() {
        assert_eq!(Target::parse("postgres://h/d").unwrap().tls, Tls::default());
        let target = Target::parse(
            "postgresql://u@h/d?application_name=x&sslmode=verify-full&sslrootcert=/a%20b.pem&connect_timeout=3",
        )
        .unwrap();
        assert_eq!(target.tls.mode, Mode::VerifyFull);
        assert_eq!(target.tls.root, Some("/a b.pem".into()));
        assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(target.config.get_application_name(), Some("x"));
        assert_eq!(target.config.get_connect_timeout(), Some(&std::time::Duration::from_secs(3)));
    }

    #[test]
    fn a_password_is_neither_shown_nor_quoted_however_it_is_written() {
        for url in [
            "postgres://u:canary@h/d",
            "postgres://u:canary%40x@h:1/d?sslmode=require",
            "postgres://u:can?ary&canary=1@h/d",
            "postgres://u:x@canary@h/d",
            "postgres://u:x@y?canary=1@h/d",
            "postgres://u:canary/x@h/d",
            "postgres://u:canary",
            "postgres://h/d?user=u&password=canary",
            "postgres://h:canary/d",
            "u:canary@h",
            "host=h password=canary",
            "postgres://u:canary%zz@h/d",
            "postgres://u:canary@h/d?sslmode=canary",
            "postgres://u:canary@h/d?port=canary",
        ] {
            assert!(!shown(url).contains("canary"), "{url}: {}", shown(url));
            let debug = Target::parse(url).map_or_else(|error| error, |target| format!("{target:?}"));
            assert!(!debug.contains("canary"), "{debug}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_rule() {
        for (url, rule) in [
            ("mysql://h/d", "must start with postgres:// or postgresql://"),
            ("postgres://", "names no host"),
            ("postgres://h/d?sslmode=on", "has an sslmode other than disable, prefer, require, verify-ca, verify-full"),
            ("postgres://h/d?pool_max_conns=9", "unknown option `pool_max_conns`"),
            ("postgres://h:0x/d", "invalid value for option `port`"),
            ("postgres://h/d?sslcert=/a", "has one of sslcert and sslkey: both or neither"),
            ("postgres://h/d?sslmode", "has an option without ="),
        ] {
            assert_eq!(Target::parse(url).map(|target| target.to_string()), Err(rule.to_owned()), "{url}");
        }
    }

    #[test]
    fn a_local_socket_never_uses_tls() {
        let target = Target::parse("postgres://u@%2Frun%2Fpostgresql/d?sslmode=verify-full").unwrap();
        assert_eq!(target.config.get_ssl_mode(), SslMode::Disable);
        assert_eq!(target.to_string(), "postgres://u@/run/postgresql:5432/d?sslmode=disable");
    }
}
