//! A PostgreSQL URL: a password is never shown, however the URL around it is broken, and one that was put together
//! from its parts comes apart into them.

use arbitrary::Unstructured;
use postgres::config::Host;
use sluicegate::pg::url::Target;

const SECRET: &str = "canary";

pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    said(&text);
    hides(&text);
    let _ = parts(&mut Unstructured::new(data));
}

/// What is shown of a URL, or of what is wrong with it.
fn said(url: &str) -> String {
    match Target::parse(url) {
        Ok(target) => format!("{target} {target:?}"),
        Err(rule) => {
            assert!(!rule.is_empty());
            rule
        }
    }
}

/// The text is cut at its lines: what is before, in and behind a password that is written as it is, or with %XX.
fn hides(text: &str) {
    let mut lines = text.split('\n').map(|line| line.replace(SECRET, ""));
    let mut line = || lines.next().unwrap_or_default();
    let (user, before, behind, rest) = (line(), line(), line(), line());
    // Up to the first @, and from its first colon on, it is a password.
    let [user, before, behind] = [user.replace([':', '@'], ""), before.replace('@', ""), behind.replace('@', "")];
    for secret in [SECRET, "c%61nary"] {
        for url in [
            format!("postgres://{user}:{before}{secret}{behind}@{rest}"),
            format!("postgres://{user}@h/d?password={}{secret}{}", no_end(&before), no_end(&behind)),
            format!("postgres://h/d?user={}&password={secret}{}", no_end(&user), no_end(&behind)),
        ] {
            let said = said(&url);
            assert!(!said.contains(SECRET), "{url:?} is shown as {said:?}");
        }
    }
}

/// Within a value of the query.
fn no_end(text: &str) -> String {
    text.replace(['&', '?', '='], "")
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn parts(choices: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let user: Option<&str> = choices.arbitrary()?;
    let password: Option<&str> = choices.arbitrary()?;
    let hosts = choices.int_in_range(1..=3)?;
    let hosts: Vec<(String, Option<u16>)> = (0..hosts)
        .map(|_| {
            let host = match choices.int_in_range(0..=3)? {
                0 => "db.example".to_owned(),
                1 => "/run/postgresql".to_owned(),
                2 => "::1".to_owned(),
                _ => choices.arbitrary::<&str>()?.to_owned(),
            };
            Ok((host, choices.arbitrary()?))
        })
        .collect::<arbitrary::Result<_>>()?;
    let database: Option<&str> = choices.arbitrary()?;
    let mode = *choices.choose(&["disable", "prefer", "require", "verify-ca", "verify-full"])?;
    let application: Option<&str> = choices.arbitrary()?;

    let mut url = "postgres://".to_owned();
    if let Some(user) = user {
        url += &encoded(user);
        url += &password.map(|password| format!(":{}", encoded(password))).unwrap_or_default();
        url += "@";
    }
    let written: Vec<String> = hosts
        .iter()
        .map(|(host, port)| {
            let host = if host == "::1" { "[::1]".to_owned() } else { encoded(host) };
            host + &port.map(|port| format!(":{port}")).unwrap_or_default()
        })
        .collect();
    url += &written.join(",");
    url += &database.map(|name| format!("/{}", encoded(name))).unwrap_or_default();
    url += &format!("?sslmode={mode}");
    url += &application.map(|name| format!("&application_name={}", encoded(name))).unwrap_or_default();

    let read = match Target::parse(&url) {
        Ok(read) => read,
        // A host of nothing is none.
        Err(rule) => {
            assert!(hosts.iter().any(|(host, _)| host.is_empty()), "{url:?} {rule}");
            return Ok(());
        }
    };
    let config = &read.config;
    assert_eq!(config.get_user(), user, "{url:?}");
    let secret = user.and(password).map(str::as_bytes);
    assert_eq!(config.get_password(), secret, "{url:?}");
    assert_eq!(config.get_dbname(), database.filter(|name| !name.is_empty()), "{url:?}");
    assert_eq!(config.get_application_name(), application, "{url:?}");
    let expected = hosts.iter().map(|(host, _)| match host.strip_prefix('/') {
        Some(_) => Host::Unix(host.into()),
        None => Host::Tcp(host.clone()),
    });
    if hosts.iter().all(|(host, _)| !host.is_empty()) {
        assert!(config.get_hosts().iter().cloned().eq(expected), "{url:?} {:?}", config.get_hosts());
        let ports = hosts.iter().map(|(_, port)| port.unwrap_or(5432));
        assert!(config.get_ports().iter().copied().eq(ports), "{url:?} {:?}", config.get_ports());
    }
    Ok(())
}
