//! The dashboards as a table: an overview of all flows and one board for each. What a flow has beyond what all have is
//! in `own`. From it come the files in `deploy/grafana/dashboards`, and what is checked against a real run.

use serde_json::{Value, json};

/// How a panel shows its values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// The newest value, large; of a graph in small behind it.
    Number,
    Lines,
    /// Lines on top of each other: their sum means something.
    Stack,
}

use Show::{Lines, Number, Stack};

/// When a panel has something to show.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// While the flow runs and records come.
    Always,
    /// Only where the flow does such things, or once something has gone wrong.
    Sometimes,
}

use Data::{Always, Sometimes};

pub struct Panel {
    pub title: &'static str,
    /// What it answers, for whoever looks at it for the first time.
    pub help: &'static str,
    pub show: Show,
    /// In Grafana's words.
    pub unit: &'static str,
    pub data: Data,
    /// From here on it is red; Grafana draws it so.
    pub limit: Option<f64>,
    /// What to ask, and what to call an answer.
    pub queries: Vec<(String, &'static str)>,
}

pub struct Board {
    /// The name of its file and, behind `sluicegate-`, its id.
    pub name: &'static str,
    /// None of the overview.
    pub flow: Option<&'static str>,
    pub panels: Vec<Panel>,
}

pub const FLOWS: [&str; 5] = ["status", "orders", "events", "tickets", "cdc"];
pub const STAGES: [(&str, &str); 5] = [
    ("poll", "sluicegate_poll_duration_seconds"),
    ("decode", "sluicegate_decode_duration_seconds"),
    ("queue", "sluicegate_queue_duration_seconds"),
    ("write", "database_write_duration_seconds"),
    ("commit (part of write)", "sluicegate_commit_duration_seconds"),
];

pub fn boards() -> Vec<Board> {
    let of_flow = |flow: &'static str| Board { name: flow, flow: Some(flow), panels: of_flow(flow) };
    std::iter::once(overview()).chain(FLOWS.map(of_flow)).collect()
}

/// A panel of one query for each of `queries`; `$F` is what the board selects.
fn panel(
    title: &'static str,
    show: Show,
    unit: &'static str,
    data: Data,
    queries: &[(&str, &'static str)],
    help: &'static str,
) -> Panel {
    let queries = queries.iter().map(|(query, legend)| (query.to_string(), *legend)).collect();
    Panel { title, help, show, unit, data, limit: None, queries }
}

fn from(limit: f64, panel: Panel) -> Panel {
    Panel { limit: Some(limit), ..panel }
}

/// Letters in an hour. Not by their reason: that has no series before its first letter, and so never a first increase.
fn set_aside(selected: &str, by: &str) -> String {
    format!("round(sum {by}(increase(sluicegate_letters_written_total{{{selected}}}[1h])))")
}

/// Keys that have been stopped for as long as it takes to alert. Every instance says the same of all.
const KEYS_STOPPED: &str =
    "sum(max by (flow) (sluicegate_held_keys) and max by (flow) (sluicegate_held_oldest_seconds) > 600) or vector(0)";

/// Seconds that threads spend in each stage in every second.
fn time_goes(selected: &str) -> Panel {
    let spent =
        |(stage, name): (&'static str, &str)| (format!("sum(rate({name}_sum{{{selected}}}[$__rate_interval]))"), stage);
    Panel {
        title: "where the time goes",
        help: "Seconds that threads spend in each stage, in every second. The largest is the bottleneck: poll waits for \
               records, decode makes rows, queue waits for a writer, write is PostgreSQL, and commit is the part of \
               write that waits for its disk.",
        show: Lines,
        unit: "s",
        data: Always,
        limit: None,
        queries: STAGES.map(spent).into(),
    }
}

fn overview() -> Board {
    let all = "sum by (flow)";
    let rate = |name: &str| format!("{all} (rate({name}[$__rate_interval]))");
    let failures = [
        (rate("database_write_errors_total"), "{{flow}}: PostgreSQL"),
        (rate("kafka_consumer_errors_total"), "{{flow}}: Kafka"),
        (rate("sluicegate_publish_errors_total"), "{{flow}}: publishing"),
    ];
    let quantile =
        |name: &str| format!("histogram_quantile(0.99, sum by (flow, le) (rate({name}_bucket[$__rate_interval])))");
    #[rustfmt::skip]
    let panels = vec![
        from(300.0, panel("behind", Number, "s", Always, &[("max by (flow) (sluicegate_lag_seconds)", "{{flow}}")],
            "Is it keeping up? How long the record that comes next has waited.")),
        from(1.0, panel("set aside in an hour", Number, "short", Always, &[(&set_aside("", "by (flow) "), "{{flow}}")],
            "Is anything lost or set aside? Nothing is lost: these are letters, and wait for a person.")),
        from(1.0, panel("halted", Number, "none", Always, &[(&format!("{all} (sluicegate_partition_halted)"), "{{flow}}")],
            "Partitions that wait for a person.")),
        from(1.0, panel("keys stopped", Number, "none", Always, &[(KEYS_STOPPED, "for 10 min")],
            "Keys of flows where one has been stopped behind its record for 10 minutes; most of them wait for a person. No lag has what is parked behind them.")),
        panel("ready", Number, "none", Always, &[("sum(sluicegate_ready)", "instances")],
            "Instances whose /health/ready says 200."),
        from(1.0, panel("alerts", Number, "none", Always, &[("count(ALERTS{alertstate=\"firing\"}) or vector(0)", "firing")],
            "Alerts that fire, of those in deploy/alerts.yml. docs/OPERATING.md has what to do for each.")),
        panel("written a second", Lines, "ops", Always, &[(&rate("database_records_written_total"), "{{flow}}")],
            "Records whose effect is committed."),
        panel("records behind", Lines, "short", Always, &[(&format!("{all} (sluicegate_lag_records)"), "{{flow}}")],
            "Between the ledger and the end of the topic. Falling: it catches up. Rising: more comes than is written."),
        panel("end to end, p99", Lines, "s", Always, &[(&quantile("sluicegate_end_to_end_duration_seconds"), "{{flow}}")],
            "From the timestamp of a batch's first record until it is committed."),
        Panel { show: Stack, ..time_goes("").without_commit() },
        panel("transaction, p99", Lines, "s", Always, &[(&quantile("database_write_duration_seconds"), "{{flow}}")],
            "From begin to the answer to commit. The aim is 0.1 s."),
        panel("failures a second", Lines, "ops", Always,
            &failures.each_ref().map(|(query, legend)| (query.as_str(), *legend)),
            "Transactions that PostgreSQL refused or did not answer, errors of Kafka's client, messages that could not be published. All of it is tried again."),
        panel("open letters", Stack, "none", Always, &[("max by (flow, code) (sluicegate_letters_open)", "{{flow}}: {{code}}")],
            "What was set aside, whenever that was, and waits for a person, by its reason. docs/OPERATING.md explains the codes."),
        panel("outbox", Lines, "s", Always, &[("max by (flow) (sluicegate_outbox_oldest_seconds)", "{{flow}}")],
            "How long the oldest message has waited that others are to be told of."),
        panel("memory", Lines, "bytes", Always, &[("sluicegate_process_resident_memory_bytes", "{{instance}}")],
            "Resident memory of each instance."),
        panel("processor", Lines, "short", Always, &[("rate(sluicegate_process_cpu_seconds_total[$__rate_interval])", "{{instance}}")],
            "Cores in use, of each instance."),
    ];
    Board { name: "overview", flow: None, panels }
}

impl Panel {
    fn without_commit(mut self) -> Panel {
        self.queries.pop();
        self
    }
}

fn of_flow(flow: &'static str) -> Vec<Panel> {
    let f = format!("flow=\"{flow}\"");
    let rate = |name: &str| format!("sum(rate({name}{{{f}}}[$__rate_interval]))");
    let sum = |name: &str| format!("sum({name}{{{f}}})");
    let max = |name: &str| format!("max({name}{{{f}}})");
    let quantile = |q: &str, name: &str| {
        format!("histogram_quantile({q}, sum by (le) (rate({name}_bucket{{{f}}}[$__rate_interval])))")
    };
    let by = |label: &str, name: &str| format!("sum by ({label}) (rate({name}{{{f}}}[$__rate_interval]))");
    let end = "sluicegate_end_to_end_duration_seconds";
    #[rustfmt::skip]
    let mut panels = vec![
        from(300.0, panel("behind", Number, "s", Always, &[(&max("sluicegate_lag_seconds"), "seconds")],
            "How long the record that comes next has waited.")),
        panel("written a second", Number, "ops", Always, &[(&rate("database_records_written_total"), "records")],
            "Records whose effect is committed."),
        from(1.0, panel("set aside in an hour", Number, "short", Always, &[(&set_aside(&f, ""), "letters")],
            "Letters, which wait for a person.")),
        from(1.0, panel("halted", Number, "none", Always, &[(&sum("sluicegate_partition_halted"), "partitions")],
            "Partitions that wait for a person.")),
        from(1.0, panel("in trouble", Number, "none", Always, &[(&format!("count(sluicegate_dependency_up{{{f}}} == 0) or vector(0)"), "sides")],
            "Kafka, PostgreSQL or both, as any instance sees them.")),
        panel("records a second", Lines, "ops", Always,
            &[(&rate("kafka_messages_consumed_total"), "read"), (&rate("database_records_written_total"), "written"), (&rate("sluicegate_letters_written_total"), "set aside")],
            "Read and written run together; what is read again after a fault makes the first larger."),
        panel("records behind", Lines, "short", Always,
            &[(&sum("sluicegate_lag_records"), "all"), (&max("sluicegate_partition_lag_records"), "the partition with most")],
            "Where one partition has nearly all of it, that one is the problem, or its keys are."),
        panel("end to end", Lines, "s", Always, &[(&quantile("0.5", end), "p50"), (&quantile("0.99", end), "p99")],
            "From the timestamp of a batch's first record until it is committed."),
        time_goes(&f),
        panel("on the way", Lines, "short", Always,
            &[(&sum("sluicegate_batches_in_flight"), "batches in flight"), (&sum("sluicegate_batches_waiting"), "of them waiting"), (&sum("application_active_workers"), "writers at work")],
            "Batches wait where writers are all at work."),
        panel("transaction", Lines, "s", Always,
            &[(&quantile("0.5", "database_write_duration_seconds"), "p50"), (&quantile("0.99", "database_write_duration_seconds"), "p99"), (&quantile("0.99", "sluicegate_commit_duration_seconds"), "commit, p99")],
            "From begin to the answer to commit."),
        panel("failures a second", Lines, "ops", Always,
            &[(&rate("database_write_errors_total"), "PostgreSQL"), (&rate("kafka_consumer_errors_total"), "Kafka"), (&rate("sluicegate_transactions_retried_total"), "tried again"), (&rate("sluicegate_batches_fenced_total"), "fenced"), (&rate("sluicegate_stalls_repaired_total"), "stalls repaired")],
            "All of it is tried again. Fenced batches belong to a partition that went to another instance, or wait for what others bring."),
        panel("set aside, by reason", Stack, "ops", Sometimes, &[(&by("code", "sluicegate_letters_by_reason_total"), "{{code}}")],
            "The codes are explained in docs/OPERATING.md."),
        panel("partitions and connections", Lines, "none", Always,
            &[(&sum("sluicegate_partitions_assigned"), "partitions assigned"), (&sum("sluicegate_connections_open"), "connections open")],
            "Over all instances: the partitions should be all of the topic's."),
        panel("ledger", Lines, "ops", Always,
            &[(&format!("sum by (topic, partition) (rate(sluicegate_partition_ledger_offset{{{f}}}[$__rate_interval]))"), "{{topic}}/{{partition}}")],
            "How fast each partition moves. A line at 0 while the others move is a partition that stands still."),
        panel("seconds behind, by partition", Lines, "s", Always,
            &[(&format!("max by (topic, partition) (sluicegate_partition_lag_seconds{{{f}}})"), "{{topic}}/{{partition}}")],
            "How long the next record of each has waited."),
    ];
    panels.extend(own(flow, &f));
    panels
}

/// What a flow has that others have not.
fn own(flow: &str, f: &str) -> Vec<Panel> {
    let outcomes =
        (format!("sum by (outcome) (rate(sluicegate_outcomes_total{{{f}}}[$__rate_interval]))"), "{{outcome}}");
    let outcomes =
        |data, help| panel("what records came to", Stack, "ops", data, &[(outcomes.0.as_str(), outcomes.1)], help);
    let outbox = |data| {
        let oldest = format!("max(sluicegate_outbox_oldest_seconds{{{f}}})");
        panel(
            "outbox",
            Lines,
            "s",
            data,
            &[(&oldest, "oldest")],
            "How long the oldest message has waited that others are to be told of.",
        )
    };
    let published = |data| {
        let rate = |name: &str| format!("sum(rate({name}{{{f}}}[$__rate_interval]))");
        let queries = [
            (rate("sluicegate_outbox_published_total"), "published"),
            (rate("sluicegate_publish_errors_total"), "failed"),
        ];
        panel(
            "messages a second",
            Lines,
            "ops",
            data,
            &queries.each_ref().map(|(query, legend)| (query.as_str(), *legend)),
            "Out of the outbox, acknowledged by Kafka; and what could not be published and is tried again.",
        )
    };
    let locks = format!(
        "sum(rate(database_lock_wait_duration_seconds_sum{{{f}}}[$__rate_interval])) / sum(rate(database_lock_wait_duration_seconds_count{{{f}}}[$__rate_interval]))"
    );
    let held = |help| {
        let most = |name: &str| format!("max(sluicegate_{name}{{{f}}})");
        let (keys, parked, oldest) = (most("held_keys"), most("parked_records"), most("held_oldest_seconds"));
        let queries = [(keys.as_str(), "keys"), (parked.as_str(), "records parked behind them")];
        let all =
            "Over all instances: keys that one of their records has stopped. No lag has what is parked behind them.";
        [
            panel("stopped keys", Lines, "short", Always, &queries, all),
            from(600.0, panel("stopped for", Lines, "s", Always, &[(&oldest, "the first of them")], help)),
        ]
    };
    match flow {
        "orders" => vec![
            outcomes(Always, "Reserved, rejected for want of stock or of the product, and repeated."),
            from(
                0.05,
                panel(
                    "wait for stock",
                    Lines,
                    "s",
                    Always,
                    &[(&locks, "on average")],
                    "A transaction's wait for rows of the inventory that others had locked. The aim is below 50 ms.",
                ),
            ),
            outbox(Always),
            published(Always),
        ],
        "events" => vec![
            outcomes(Always, "Processed, dropped, duplicate, retried, parked, and sent to the DLQ."),
            outbox(Always),
            published(Always),
        ]
        .into_iter()
        .chain(held("With ordering: key. A key waits until what stopped it is tried again, or is a letter."))
        .collect(),
        "tickets" => vec![
            outcomes(Always, "In sequence, and what was not: gaps, steps back, and keys that wait."),
            panel(
                "produced a second",
                Lines,
                "ops",
                Always,
                &[("sum(rate(sluicegate_records_produced_total{flow=\"tickets\"}[$__rate_interval]))", "acknowledged")],
                "By the ticket producer.",
            ),
        ]
        .into_iter()
        .chain(held("A key waits until a person replays or drops the letter that stopped it."))
        .collect(),
        "cdc" => vec![outcomes(Always, "Rows inserted, updated and deleted.")],
        _ => Vec::new(),
    }
}

/// The file that Grafana reads.
pub fn json(board: &Board) -> String {
    let source = json!({ "type": "prometheus", "uid": "${datasource}" });
    let (mut x, mut y, mut row) = (0, 0, 0);
    let mut panels = Vec::new();
    for (index, panel) in board.panels.iter().enumerate() {
        let numbers = board.panels.iter().filter(|panel| panel.show == Number).count();
        let (width, height) = if panel.show == Number { (24 / numbers, 4) } else { (12, 8) };
        if x + width > 24 || height != row {
            (x, y) = (0, y + row);
        }
        row = height;
        let targets: Vec<Value> = panel
            .queries
            .iter()
            .enumerate()
            .map(|(number, (query, legend))| {
                let id = char::from(b'A' + number as u8).to_string();
                json!({ "refId": id, "datasource": source, "expr": query, "legendFormat": legend })
            })
            .collect();
        let steps = match panel.limit {
            Some(limit) => json!([{ "color": "green", "value": null }, { "color": "red", "value": limit }]),
            None => json!([{ "color": "blue", "value": null }]),
        };
        // All that Grafana's own schema asks for, and nothing that is left to its defaults, which change.
        let (custom, options) = match panel.show {
            Number => (
                json!({}),
                json!({
                    "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                    "colorMode": "value", "graphMode": "area", "justifyMode": "auto", "orientation": "auto",
                    "textMode": "value_and_name", "wideLayout": true, "showPercentChange": false,
                    "percentChangeColorMode": "standard",
                }),
            ),
            Lines | Stack => {
                let (opacity, stacking) = if panel.show == Stack { (40, "normal") } else { (5, "none") };
                let stacking = json!({ "mode": stacking, "group": "A" });
                let legend = json!({ "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] });
                (
                    json!({ "fillOpacity": opacity, "stacking": stacking }),
                    json!({ "legend": legend, "tooltip": { "mode": "multi", "sort": "desc" } }),
                )
            }
        };
        panels.push(json!({
            "id": index + 1,
            "type": if panel.show == Number { "stat" } else { "timeseries" },
            "title": panel.title,
            "description": panel.help,
            "datasource": source,
            "gridPos": { "x": x, "y": y, "w": width, "h": height },
            "targets": targets,
            "fieldConfig": {
                "defaults": {
                    "unit": panel.unit,
                    "min": 0,
                    "color": { "mode": if panel.show == Number { "thresholds" } else { "palette-classic" } },
                    "thresholds": { "mode": "absolute", "steps": steps },
                    "custom": custom,
                },
                "overrides": [],
            },
            "options": options,
        }));
        x += width;
    }
    let title = board.flow.map_or("sluicegate: overview".to_owned(), |flow| format!("sluicegate: {flow}"));
    let links = json!({
        "type": "dashboards", "tags": ["sluicegate"], "title": "boards", "asDropdown": true, "keepTime": true,
        "includeVars": true, "targetBlank": false, "icon": "external link", "tooltip": "",
    });
    let dashboard = json!({
        "uid": format!("sluicegate-{}", board.name),
        "title": title,
        "tags": ["sluicegate"],
        "schemaVersion": 39,
        "editable": false,
        "refresh": "10s",
        "time": { "from": "now-1h", "to": "now" },
        "links": [links],
        "templating": { "list": [{ "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus" }] },
        "panels": panels,
    });
    let mut text = serde_json::to_string_pretty(&dashboard).expect("plain values");
    text.push('\n');
    text
}
