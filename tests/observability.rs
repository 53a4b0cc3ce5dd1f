//! What an operator looks at, against what the program really says: the dashboards are their table, each query and each
//! alert is understood by a real Prometheus, names only what a real run exports, and has data where it should. Alerts
//! fire when deploy/alerts_test.yml says so.

#![allow(clippy::disallowed_methods)] // tests poll what they cannot be told of

mod support;

#[path = "observability/boards.rs"]
mod boards;
#[path = "http/exposition.rs"]
#[allow(dead_code)]
mod exposition;
#[path = "observability/names.rs"]
mod names;
#[path = "observability/picture.rs"]
mod picture;
#[path = "observability/prometheus.rs"]
mod prometheus;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sluicegate::config::Sources;
use sluicegate::produce::PORT_USUAL;

use boards::{Data, boards};
use exposition::Exposition;
use names::names;
use prometheus::Prometheus;
use support::{Instance, unique, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// Made by Prometheus itself, and by node_exporter where one runs.
const OTHERS: [&str; 3] = ["ALERTS", "up", "node_network_transmit_bytes_total"];
/// Labels that Prometheus adds when it scrapes, and those of its own metrics.
const ADDED: [&str; 4] = ["instance", "job", "le", "alertstate"];
/// Flows whose records the program itself makes up.
const MADE_UP: [&str; 4] = ["status", "orders", "events", "tickets"];
/// Rows of the table whose changes the cdc flow gets.
const THINGS: i64 = 200;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The alerts with their expressions, read as far as that goes without a reader of YAML.
fn alerts() -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let (mut name, mut in_expression) = (String::new(), false);
    for line in read(&deploy("alerts.yml")).lines() {
        let text = line.trim();
        if let Some(alert) = text.strip_prefix("- alert: ") {
            name = alert.to_owned();
        } else if let Some(expression) = text.strip_prefix("expr: ") {
            in_expression = expression == "|";
            found.insert(name.clone(), expression.trim_start_matches('|').to_owned());
        } else if text.starts_with("for: ") {
            in_expression = false;
        } else if in_expression {
            *found.get_mut(&name).expect("inside an alert") += &format!("\n{text}");
        }
    }
    found
}

/// Everything that is ever asked: of the boards, and of the alerts.
fn expressions() -> Vec<(String, String)> {
    let boards = boards();
    let of_boards = boards.iter().flat_map(|board| {
        let of_panel = |panel: &boards::Panel| {
            let place = format!("{}: {}", board.name, panel.title);
            panel.queries.iter().map(|(query, _)| (place.clone(), query.clone())).collect::<Vec<_>>()
        };
        board.panels.iter().flat_map(of_panel).collect::<Vec<_>>()
    });
    of_boards.chain(alerts()).collect()
}

#[test]
fn the_dashboards_are_the_table() {
    let folder = deploy("grafana/dashboards");
    let mut names: BTreeSet<String> = BTreeSet::new();
    for board in boards() {
        let name = format!("{}.json", board.name);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(folder.join(&name), boards::json(&board)).unwrap();
        }
        let found = std::fs::read_to_string(folder.join(&name)).unwrap_or_default();
        let cure = "UPDATE_EXPECT=1 cargo test --test observability";
        assert!(found == boards::json(&board), "{name} is not its table: {cure}");
        names.insert(name);
    }
    let files = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    assert_eq!(files.collect::<BTreeSet<String>>(), names);
}

#[test]
fn a_dashboard_is_what_grafana_takes() {
    let mut ids = BTreeSet::new();
    for board in boards() {
        let dashboard: Value = serde_json::from_str(&boards::json(&board)).unwrap();
        let name = dashboard["uid"].as_str().unwrap();
        assert!(ids.insert(name.to_owned()) && name.len() <= 40, "{name}");
        assert!(dashboard["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
        let panels = dashboard["panels"].as_array().unwrap();
        let (mut panel_ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in panels {
            let title = panel["title"].as_str().unwrap();
            assert!(panel_ids.insert(panel["id"].as_u64().unwrap()), "{name}: {title}: its id is another's");
            for text in [&panel["title"], &panel["description"], &panel["fieldConfig"]["defaults"]["unit"]] {
                assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{name}: {title}: {panel}");
            }
            assert_eq!(panel["datasource"]["uid"], "${datasource}");
            let targets = panel["targets"].as_array().unwrap();
            let letters: BTreeSet<&str> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
            assert!(!targets.is_empty() && letters.len() == targets.len(), "{name}: {title}");
            assert!(targets.iter().all(|target| !target["expr"].as_str().unwrap().is_empty()), "{name}: {title}");
            let side = |side: &str| panel["gridPos"][side].as_u64().unwrap();
            assert!(side("x") + side("w") <= 24 && side("h") > 0, "{name}: {title}");
            for x in side("x")..side("x") + side("w") {
                for y in side("y")..side("y") + side("h") {
                    assert!(taken.insert((x, y)), "{name}: {title} lies on another panel");
                }
            }
        }
    }
    let provider = read(&deploy("grafana/provisioning/dashboards/sluicegate.yml"));
    assert!(provider.contains("path: /var/lib/grafana/dashboards"));
    let source = read(&deploy("grafana/provisioning/datasources/prometheus.yml"));
    assert!(source.contains("type: prometheus") && source.contains("url: http://localhost:9090"));
}

#[test]
fn each_alert_has_an_entry_of_what_to_do_and_cases_in_which_it_fires_and_does_not() {
    let page = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATING.md"));
    let (rules, cases) = (read(&deploy("alerts.yml")), read(&deploy("alerts_test.yml")));
    let alerts = alerts();
    assert_eq!(alerts.len(), rules.matches("- alert: ").count());
    for name in alerts.keys() {
        let (_, entry) = page.split_once(&format!("\n### {name}\n\n")).unwrap_or_else(|| panic!("{name}: no entry"));
        let entry = entry.split("\n#").next().unwrap_or_default();
        assert!(entry.len() > 80, "{name}: {entry}");
        let link = format!("runbook_url: \"docs/OPERATING.md#{}\"", name.to_lowercase());
        assert_eq!(rules.matches(&link).count(), 1, "{name}");
        assert!(cases.contains(&link), "{name}: no case in which it fires");
        assert!(cases.contains(&format!("alertname: {name}, exp_alerts: [] }}")), "{name}: none in which it does not");
    }
    let entries = page.lines().filter_map(|line| line.strip_prefix("### "));
    assert_eq!(entries.map(str::to_owned).collect::<BTreeSet<_>>(), alerts.into_keys().collect());
}

#[test]
fn promtool_takes_the_rules_and_the_configuration_and_the_alerts_fire_when_they_should() {
    if !prometheus::is_there() {
        return;
    }
    for arguments in
        [["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]]
    {
        let output = std::process::Command::new("promtool").args(arguments).current_dir(deploy("")).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
}

/// Who asks for more hears SluicegateDown for ever.
#[test]
fn what_prometheus_asks_is_what_a_plain_run_has() {
    let folder = std::env::temp_dir().join("sluicegate-no-such-folder");
    let environment = vec![("DB_URL".to_owned(), "postgres://nobody@127.0.0.1:1/nothing".to_owned())];
    let config = Sources { file: None, flows: Vec::new(), environment, folder }.load();
    let config = config.unwrap_or_else(|findings| panic!("{findings}"));
    let targets = |text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("- targets: "));
        lines.map(str::to_owned).collect()
    };
    let text = read(&deploy("prometheus.yml"));
    assert_eq!(targets(&text), [format!("[\"localhost:{}\"]", config.http.port)]);
    // Those that may be put in are where a producer is by itself, and where the page has its consumer.
    let all = targets(&text.replace("  # ", "  "));
    assert_eq!(all[1..], [PORT_USUAL, 2113].map(|port| format!("[\"localhost:{port}\"]")));
}

/// Every metric that is named is exported, and has the labels that it is asked by.
fn check_names(place: &str, expression: &str, exported: &Exposition) {
    let named = names(expression);
    assert!(!named.metrics.is_empty(), "{place}: {expression}");
    let labels_of = |metric: &str| -> BTreeSet<String> {
        let samples = exported.samples.keys().filter(|(name, _)| name == metric);
        samples.flat_map(|(_, labels)| labels.iter().map(|(label, _)| label.clone())).collect()
    };
    let mut all: BTreeSet<String> = ADDED.map(str::to_owned).into();
    for metric in named.metrics.iter().filter(|metric| !OTHERS.contains(&metric.as_str())) {
        assert!(exported.samples.keys().any(|(name, _)| name == metric), "{place}: {metric} is not exported");
        all.extend(labels_of(metric));
    }
    for (metric, label) in named.selected.iter().filter(|(metric, _)| !OTHERS.contains(&metric.as_str())) {
        assert!(labels_of(metric).contains(label), "{place}: {metric} has no label {label}");
    }
    if named.metrics.iter().all(|metric| !OTHERS.contains(&metric.as_str())) {
        named.grouped.iter().for_each(|label| assert!(all.contains(label), "{place}: nothing has a label {label}"));
    }
}

/// All flows with records of which some are poison, for as long as it is not dropped.
struct Run {
    instance: Instance,
    settings: HashMap<&'static str, String>,
}

impl Run {
    fn start() -> Run {
        let stem = unique("watch");
        let topic = |name: &str| format!("{stem}-{name}");
        let handlers = r#"[{"kind":"fail","transient_percent":5,"permanent_percent":2},{"kind":"table"}]"#;
        let (url, changes) = (support::new_database("watch"), format!("{stem}.public.things"));
        support::create_topic(&support::brokers(), &changes, 4, &[]);
        // Of the types of its columns events without a schema say nothing.
        let table = "CREATE TABLE public.things (id bigint PRIMARY KEY, name text)";
        support::connect(&url).batch_execute(table).expect("a table");
        let settings = HashMap::from([
            ("KAFKA_BROKERS", support::brokers()),
            ("DB_URL", url),
            ("SLUICEGATE_FLOWS_STATUS_TOPIC", topic("status")),
            ("SLUICEGATE_FLOWS_STATUS_GROUP_ID", topic("status")),
            ("SLUICEGATE_FLOWS_STATUS_PARTITIONS", "4".to_owned()),
            ("SLUICEGATE_FLOWS_STATUS_REPLICATION_FACTOR", "1".to_owned()),
            ("SLUICEGATE_FLOWS_ORDERS_ENABLED", "true".to_owned()),
            ("SLUICEGATE_FLOWS_ORDERS_TOPIC", topic("orders")),
            ("SLUICEGATE_FLOWS_ORDERS_GROUP_ID", topic("orders")),
            ("SLUICEGATE_FLOWS_ORDERS_PARTITIONS", "4".to_owned()),
            ("SLUICEGATE_FLOWS_ORDERS_VALIDATED_TOPIC", topic("validated")),
            ("SLUICEGATE_FLOWS_ORDERS_INVENTORY_TOPIC", topic("inventory")),
            ("SLUICEGATE_FLOWS_ORDERS_WAREHOUSE_TOPIC", topic("warehouse")),
            ("SLUICEGATE_FLOWS_EVENTS_ENABLED", "true".to_owned()),
            ("SLUICEGATE_FLOWS_EVENTS_TOPIC", topic("events")),
            ("SLUICEGATE_FLOWS_EVENTS_PRODUCER_TOPIC", topic("events")),
            ("SLUICEGATE_FLOWS_EVENTS_GROUP_ID", topic("events")),
            ("SLUICEGATE_FLOWS_EVENTS_PARTITIONS", "4".to_owned()),
            ("SLUICEGATE_FLOWS_EVENTS_RETRY_TOPIC_PREFIX", topic("retry")),
            ("SLUICEGATE_FLOWS_EVENTS_DLQ_TOPIC", topic("dlq")),
            ("SLUICEGATE_FLOWS_EVENTS_HANDLERS", handlers.to_owned()),
            ("SLUICEGATE_FLOWS_TICKETS_ENABLED", "true".to_owned()),
            ("SLUICEGATE_FLOWS_TICKETS_TOPIC", topic("tickets")),
            ("SLUICEGATE_FLOWS_TICKETS_GROUP_ID", topic("tickets")),
            ("SLUICEGATE_FLOWS_TICKETS_PARTITIONS", "4".to_owned()),
            ("SLUICEGATE_FLOWS_TICKETS_PRODUCE_PER_S", "5".to_owned()),
            ("SLUICEGATE_FLOWS_CDC_ENABLED", "true".to_owned()),
            ("SLUICEGATE_FLOWS_CDC_TOPICS", changes),
            ("SLUICEGATE_FLOWS_CDC_GROUP_ID", topic("cdc")),
        ]);
        assert_eq!(Instance::start_with(&settings, &["init"]).wait(MINUTE), Some(0));
        let instance = Instance::start(&settings);
        instance.wait_ready();
        Run { instance, settings }
    }

    /// Made-up records of each flow, at this rate each where the program makes them up, some that nobody can read, and
    /// one that stops its key.
    fn produce(&self, count: u64, rate: u64) -> Vec<Instance> {
        let send = |topic: &str, partition: Option<i32>, records: &[(Option<String>, String)]| {
            let topic = &self.settings[topic];
            let producer = sluicegate::kafka::Producer::new(&support::brokers(), &Default::default(), topic).unwrap();
            let send = |(key, payload): &(Option<String>, String)| {
                producer.send(partition, key.as_deref().map(str::as_bytes), payload.as_bytes()).unwrap();
            };
            records.iter().for_each(send);
            producer.finish();
        };
        send("SLUICEGATE_FLOWS_STATUS_TOPIC", Some(0), &vec![(None, "no Avro".to_owned()); 20]);
        send("SLUICEGATE_FLOWS_TICKETS_TOPIC", None, &[(Some("stopped".to_owned()), "no JSON".to_owned())]);
        send("SLUICEGATE_FLOWS_CDC_TOPICS", None, &changes());
        let (count, rate) = (count.to_string(), rate.to_string());
        let produce =
            |flow: &str| Instance::start_with(&self.settings, &["produce", flow, "--count", &count, "--rate", &rate]);
        MADE_UP.map(produce).into()
    }
}

/// What a connector tells of a table: each row is inserted and changed, and every fourth deleted again.
fn changes() -> Vec<(Option<String>, String)> {
    let change = |number: i64| {
        let (id, step) = (number % THINGS, number / THINGS);
        let (op, row) = (["c", "u", "d"][step as usize], json!({ "id": id, "name": format!("{id} at {step}") }));
        let (before, after) = if op == "d" { (row, Value::Null) } else { (Value::Null, row) };
        let source = json!({ "schema": "public", "table": "things", "lsn": number + 1, "txId": number + 1 });
        let payload = json!({ "before": before, "after": after, "source": source, "op": op });
        (Some(json!({ "id": id }).to_string()), payload.to_string())
    };
    (0..3 * THINGS).filter(|number| number / THINGS < 2 || number % 4 == 0).map(change).collect()
}

#[test]
fn each_query_and_each_alert_is_answered_with_what_a_real_run_exports() {
    let run = Run::start();
    let producers = run.produce(40_000, 500);
    let metric = |name: &str| run.instance.metric(name);
    let waits =
        ["sluicegate_letters_by_reason_total", "sluicegate_lag_seconds", "database_lock_wait_duration_seconds_count"];
    waits.iter().for_each(|name| assert!(wait_for(name, MINUTE, || metric(name)) >= 0.0));
    let exported = || exposition::parse(&run.instance.get("/metrics").expect("metrics").1).expect("an exposition");
    let outcomes = |flow: &str| {
        exported().samples.keys().any(|(name, labels)| {
            name == "sluicegate_outcomes_total" && labels.contains(&("flow".to_owned(), flow.to_owned()))
        })
    };
    let deciding = ["orders", "events", "tickets", "cdc"];
    wait_for("outcomes", MINUTE, || deciding.iter().all(|flow| outcomes(flow)).then_some(()));
    let held = || exported().value("sluicegate_held_keys", &[("flow", "tickets")]);
    wait_for("a key that is stopped", MINUTE, || (held() == Some(1.0)).then_some(()));
    let exported = exported();
    for (place, expression) in expressions() {
        check_names(&place, &expression, &exported);
    }
    if !prometheus::is_there() {
        return;
    }

    let server = Prometheus::start(&deploy("prometheus.yml"), run.instance.port);
    // Long enough for rates, and for the rules to be looked at.
    wait_for("a history", 2 * MINUTE, || {
        let scrapes = server.ask("count_over_time(sluicegate_ready[1m])").ok()?;
        scrapes.first()?["value"][1].as_str()?.parse::<u32>().ok().filter(|count| *count >= 20)
    });
    let mut silent = Vec::new();
    for board in boards() {
        for panel in &board.panels {
            for (query, legend) in &panel.queries {
                let query = query.replace("$__rate_interval", "10s");
                let answer = server.ask(&query).unwrap_or_else(|error| panic!("{}: {query}: {error}", panel.title));
                if answer.is_empty() && panel.data == Data::Always {
                    silent.push(format!("{}: {}, {legend}: {query}", board.name, panel.title));
                }
            }
        }
    }
    assert!(silent.is_empty(), "these have no data:\n{}", silent.join("\n"));
    for (name, expression) in alerts() {
        server.ask(&expression).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let rules = server.get("/api/v1/rules").expect("rules");
    let rules = rules["data"]["groups"][0]["rules"].as_array().expect("rules").clone();
    assert_eq!(rules.len(), alerts().len());
    let unwell: Vec<&Value> = rules.iter().filter(|rule| rule["health"] == "err").collect();
    assert!(unwell.is_empty(), "{unwell:?}");
    let reading = |query: &str| server.ask(query).expect("an answer")[0]["value"][1].as_str().unwrap_or("").to_owned();
    // A slow machine may make it miss something for a moment.
    wait_for("it to be ready", MINUTE, || (reading("sum(sluicegate_ready{job=\"sluicegate\"})") == "1").then_some(()));
    assert_eq!(server.ask("up == 0").expect("an answer"), Vec::<Value>::new(), "all that is asked answers");
    for (flow, count, what) in
        [("status", "20", "as many as were no Avro"), ("tickets", "1", "the one that stopped its key")]
    {
        for name in ["sluicegate_letters_by_reason_total", "sluicegate_letters_written_total"] {
            assert_eq!(reading(&format!("sum({name}{{flow=\"{flow}\"}})")), count, "{name}: {what}");
        }
    }
    drop(producers);
}

/// The picture in README: `SLUICEGATE_PICTURE=docs/img/overview.svg scripts/services with picture cargo test --test
/// observability picture`.
#[test]
fn a_picture_of_the_overview_is_drawn_from_what_prometheus_answers() {
    let Some(path) = std::env::var_os("SLUICEGATE_PICTURE") else { return };
    assert!(prometheus::is_there());
    let run = Run::start();
    let server = Prometheus::start(&deploy("prometheus.yml"), run.instance.port);
    let began = support::setting("SLUICEGATE_PICTURE_S", 60u64);
    let producers = run.produce(2_000 * began, 2_000);
    std::thread::sleep(Duration::from_secs(began / 2));
    let more = run.produce(40_000, 100_000);
    std::thread::sleep(Duration::from_secs(began / 2));
    let overview = boards().remove(0);
    let svg = picture::draw(&overview, |query| server.history(query, Duration::from_secs(began)));
    std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), svg).unwrap();
    drop((producers, more));
}
