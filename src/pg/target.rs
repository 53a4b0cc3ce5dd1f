//! A connection URL as users write it, with the TLS modes of libpq: what they ask for is what they get.
//! A password is never shown.

use std::fmt;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use postgres::Config;
use postgres::config::SslMode;
use postgres_openssl::MakeTlsConnector;

/// How much of the server's certificate is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    Nothing,
    Chain,
    ChainAndHost,
}

/// Where to connect, and how.
#[derive(Clone)]
pub struct Target {
    config: Config,
    verify: Verify,
    root_certificate: Option<String>,
    shown: String,
}

impl Target {
    /// Errors name the rule and never the password.
    pub fn parse(url: &str) -> Result<Target, String> {
        let shown = redacted(url);
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err("is not a URL that begins with postgres://".into());
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut kept = Vec::new();
        let mut mode = "prefer";
        let mut root_certificate = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = value,
                Some(("sslrootcert", value)) => root_certificate = Some(value.to_owned()),
                _ => kept.push(pair),
            }
        }
        let (ssl, verify) = match mode {
            "disable" => (SslMode::Disable, Verify::Nothing),
            "allow" | "prefer" => (SslMode::Prefer, Verify::Nothing),
            "require" => (SslMode::Require, Verify::Nothing),
            "verify-ca" => (SslMode::Require, Verify::Chain),
            "verify-full" => (SslMode::Require, Verify::ChainAndHost),
            other => {
                return Err(format!(
                    "has sslmode={other}; it is one of disable, prefer, require, verify-ca, verify-full"
                ));
            }
        };
        let url = match kept.is_empty() {
            true => base.to_owned(),
            false => format!("{base}?{}", kept.join("&")),
        };
        let mut config: Config = url.parse().map_err(|error| format!("cannot be read: {}", why(&error)))?;
        if config.get_hosts().is_empty() {
            return Err("names no host".into());
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err("names no database: it ends in /name".into());
        }
        config.ssl_mode(ssl);
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        // A server that is gone without a word is noticed after this.
        config
            .connect_timeout(Duration::from_secs(5))
            .tcp_user_timeout(Duration::from_secs(20))
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        Ok(Target { config, verify, root_certificate, shown })
    }

    /// The settings, under the name that the server's own views show.
    pub fn config(&self, application_name: &str) -> Config {
        let mut config = self.config.clone();
        config.application_name(application_name);
        config
    }

    pub fn tls(&self) -> Result<MakeTlsConnector, String> {
        let problem = |error: openssl::error::ErrorStack| format!("TLS cannot be set up: {error}");
        let mut builder = SslConnector::builder(SslMethod::tls()).map_err(problem)?;
        match &self.root_certificate {
            Some(file) => builder.set_ca_file(file).map_err(|error| format!("sslrootcert {file}: {error}"))?,
            // A built-in OpenSSL knows no system's place for authorities.
            None => SYSTEM_AUTHORITIES
                .iter()
                .find(|file| std::path::Path::new(file).exists())
                .map_or(Ok(()), |file| builder.set_ca_file(file).map_err(problem))?,
        }
        if self.verify == Verify::Nothing {
            builder.set_verify(SslVerifyMode::NONE);
        }
        let mut connector = MakeTlsConnector::new(builder.build());
        let verify_host = self.verify == Verify::ChainAndHost;
        connector.set_callback(move |connection, _| {
            connection.set_verify_hostname(verify_host);
            Ok(())
        });
        Ok(connector)
    }
}

const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The parser's own words, which may repeat a part of the URL, only where they are about something else.
fn why(error: &postgres::Error) -> &'static str {
    match error.to_string() {
        text if text.contains("port") => "the port is not a number",
        text if text.contains("UTF-8") => "a part is not UTF-8",
        _ => "it has the form postgres://user:password@host:port/database?option=value",
    }
}

/// The URL with *** for its password, wherever that stands.
pub fn redacted(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:***@{host}"),
            None => format!("{user}@{host}"),
        },
        None => rest.to_owned(),
    };
    let query: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if name.contains("password") => format!("{name}=***"),
            _ => pair.to_owned(),
        })
        .collect();
    let mark = if query.iter().all(String::is_empty) { "" } else { "?" };
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    format!("{scheme}{rest}{mark}{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modes_of_libpq_mean_what_they_mean_there() {
        let cases = [
            ("", SslMode::Prefer, Verify::Nothing),
            ("?sslmode=disable", SslMode::Disable, Verify::Nothing),
            ("?sslmode=require", SslMode::Require, Verify::Nothing),
            ("?sslmode=verify-ca", SslMode::Require, Verify::Chain),
            ("?application_name=x&sslmode=verify-full", SslMode::Require, Verify::ChainAndHost),
        ];
        for (query, ssl, verify) in cases {
            let target = Target::parse(&format!("postgres://u:p@h:5432/d{query}")).expect(query);
            assert_eq!((target.config.get_ssl_mode(), target.verify), (ssl, verify), "{query}");
            assert!(target.tls().is_ok());
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "postgres://u:canary@h/d",
            "postgres://u:ca@nary:canary@h/d?sslmode=disable",
            "postgres://h/d?password=canary",
        ] {
            assert!(!redacted(url).contains("canary"), "{url} gives {}", redacted(url));
        }
        for url in [
            "mysql://u:canary@h/d",
            "postgres://u:canary@h:port/d",
            "postgres://u:canary@h",
            "postgres://u:canary@h/d?sslmode=often",
        ] {
            let error = Target::parse(url).err().expect(url);
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
