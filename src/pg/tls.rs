//! How far a server's certificate is trusted, as the URL says: the connector, out of files with certificates.

use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use postgres_openssl::{MakeTlsConnector, set_postgresql_alpn};

use super::url::{Mode, Target, Tls};

/// Where Linux and BSD systems keep the certificates they trust: the OpenSSL built into this program
/// looks in a folder of its own that exists nowhere.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Target {
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
