//! Where PostgreSQL is and how far its certificate is trusted, out of a URL with libpq's meaning of
//! `sslmode`. The postgres crate knows neither `verify-ca` nor `verify-full`, nor files with certificates:
//! those are taken out here and become a TLS connector. No error and no text from here holds a password.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use postgres::config::{Host, SslMode};
use postgres_openssl::{MakeTlsConnector, set_postgresql_alpn};
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

/// Where Linux and BSD systems keep the certificates they trust: the OpenSSL built into this program
/// looks in a folder of its own that exists nowhere.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
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

    /// A connector that trusts as far as `sslmode` says. Reads the certificates, so it fails when they cannot be read.
    pub fn connector(&self) -> Result<MakeTlsConnector, String> {
        let Tls { mode, root, certificate, key } = &self.tls;
        let wrong = |error: ErrorStack| format!("TLS: {error}");
        let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(wrong)?;
        set_postgresql_alpn(&mut builder).map_err(wrong)?;

        let chain = match mode {
            Mode::Disable | Mode::Prefer => false,
            Mode::Require => root.is_some(),
            Mode::VerifyCa | Mode::VerifyFull => true,
        };
        if chain {
            let roots = roots(root.as_deref())?;
            builder
                .set_ca_file(&roots)
                .map_err(|error| format!("sslrootcert {} cannot be used: {error}", roots.display()))?;
            builder.set_verify(SslVerifyMode::PEER);
        } else {
            builder.set_verify(SslVerifyMode::NONE);
        }
        if let (Some(certificate), Some(key)) = (certificate, key) {
            builder
                .set_certificate_chain_file(certificate)
                .map_err(|error| format!("sslcert {} cannot be used: {error}", certificate.display()))?;
            builder
                .set_private_key_file(key, SslFiletype::PEM)
                .map_err(|error| format!("sslkey {} cannot be used: {error}", key.display()))?;
        }

        let mut connector = MakeTlsConnector::new(builder.build());
        let host = *mode == Mode::VerifyFull;
        connector.set_callback(move |connection, _| {
            connection.set_verify_hostname(host);
            Ok(())
        });
        Ok(connector)
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

fn roots(named: Option<&Path>) -> Result<PathBuf, String> {
    let own = || std::env::home_dir().map(|home| home.join(".postgresql/root.crt")).filter(|path| path.exists());
    let system = || SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists());
    match named {
        Some(path) if path != Path::new("system") => Ok(path.to_owned()),
        Some(_) => {
            system().ok_or_else(|| "no certificates of the system found: name a file with sslrootcert".to_owned())
        }
        None => {
            own().or_else(system).ok_or_else(|| "no certificates to trust: name a file with sslrootcert".to_owned())
        }
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
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;
    use openssl::ssl::SslAcceptor;
    use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
    use openssl::x509::{X509, X509NameBuilder};

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

    #[test]
    fn every_mode_makes_a_connector_or_says_which_file_is_missing() {
        for mode in ["disable", "prefer", "require"] {
            assert!(Target::parse(&format!("postgres://h/d?sslmode={mode}")).unwrap().connector().is_ok());
        }
        for mode in ["require", "verify-ca", "verify-full"] {
            let url = format!("postgres://h/d?sslmode={mode}&sslrootcert=/nowhere/root.crt");
            let error = Target::parse(&url).unwrap().connector().err().unwrap();
            assert!(error.starts_with("sslrootcert /nowhere/root.crt cannot be used"), "{error}");
        }
    }

    /// A certificate for `host` that signs itself, and a port where a server shows it to one client that asks for TLS
    /// as PostgreSQL's clients do. The thread ends with whether that client went on.
    fn tls_server(host: &str, root: &Path) -> (u16, thread::JoinHandle<bool>) {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", host).unwrap();
        let name = name.build();
        let mut certificate = X509::builder().unwrap();
        certificate.set_version(2).unwrap();
        certificate.set_subject_name(&name).unwrap();
        certificate.set_issuer_name(&name).unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        let names = SubjectAlternativeName::new().dns(host).build(&certificate.x509v3_context(None, None)).unwrap();
        certificate.append_extension(names).unwrap();
        certificate.append_extension(BasicConstraints::new().ca().build().unwrap()).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        let certificate = certificate.build();
        std::fs::write(root, certificate.to_pem().unwrap()).unwrap();

        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_private_key(&key).unwrap();
        acceptor.set_certificate(&certificate).unwrap();
        let acceptor = acceptor.build();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.read_exact(&mut [0; 8]).unwrap();
            client.write_all(b"S").unwrap();
            // A client that does not trust the certificate says so instead of its first word.
            acceptor.accept(client).is_ok_and(|mut client| client.read_exact(&mut [0; 8]).is_ok())
        });
        (port, serving)
    }

    #[test]
    fn a_certificate_is_trusted_as_far_as_libpq_would() {
        let folder = tempfile::tempdir().unwrap();
        let (root, other) = (folder.path().join("root.pem"), folder.path().join("other.pem"));
        let (_, idle) = tls_server("localhost", &other);
        drop(idle);
        for (host, mode, root_named, trusted) in [
            ("localhost", "prefer", None, true),
            ("localhost", "require", None, true),
            ("localhost", "require", Some(&other), false),
            ("localhost", "verify-ca", Some(&root), true),
            ("localhost", "verify-full", Some(&root), true),
            ("elsewhere", "require", Some(&root), true),
            ("elsewhere", "verify-ca", Some(&root), true),
            ("elsewhere", "verify-full", Some(&root), false),
            ("localhost", "verify-ca", Some(&other), false),
            ("localhost", "verify-full", Some(&other), false),
            ("localhost", "verify-full", None, false),
        ] {
            let (port, serving) = tls_server(host, &root);
            let named = root_named.map(|path| format!("&sslrootcert={}", path.display())).unwrap_or_default();
            let url = format!("postgres://u@localhost:{port}/d?hostaddr=127.0.0.1&sslmode={mode}{named}");
            let target = Target::parse(&url).unwrap();
            // A machine without any certificates refuses already here.
            match target.connector() {
                Ok(connector) => assert!(target.config.connect(connector).is_err(), "the server hangs up"),
                Err(_) => drop(TcpStream::connect(("127.0.0.1", port)).unwrap()),
            }
            assert_eq!(serving.join().unwrap_or(false), trusted, "a certificate for {host}, {url}");
        }
    }
}
