-- Which offset comes next, for each partition of each flow. Everything before it has been applied.
-- Half of each page stays free, so that an update stays on its page and no index is touched.
CREATE TABLE IF NOT EXISTS sluicegate_ledger (
    flow        text        NOT NULL,
    topic       text        NOT NULL,
    partition   integer     NOT NULL,
    incarnation text        NOT NULL, -- of the topic; empty where the broker could not tell
    next_offset bigint      NOT NULL,
    owner_epoch bigint      NOT NULL, -- counts up at every claim; an older one writes nothing any more
    owner       text        NOT NULL, -- for people: who claimed last
    claimed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (flow, topic, partition)
) WITH (fillfactor = 50);
