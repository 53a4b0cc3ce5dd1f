-- {tickets} and {orders} are put in by the flow. Tables that are there already are left as they are.
DO $$
BEGIN
    IF to_regclass('{tickets}') IS NULL THEN
        CREATE TABLE {tickets} (
            order_id    text COLLATE "C" NOT NULL,
            sequence    bigint           NOT NULL CHECK (sequence > 0),
            ticket_id   uuid             NOT NULL,
            status      text             NOT NULL,
            customer_id text             NOT NULL,
            price       numeric(14,2)    NOT NULL CHECK (price >= 0),
            changed_at  timestamptz      NOT NULL,
            written_at  timestamptz      NOT NULL DEFAULT now(),
            PRIMARY KEY (order_id, sequence)
        );
    END IF;
    IF to_regclass('{orders}') IS NULL THEN
        -- Where each order stands: the highest sequence that was written, and what the order came to by it.
        CREATE TABLE {orders} (
            order_id   text COLLATE "C" NOT NULL PRIMARY KEY,
            sequence   bigint           NOT NULL CHECK (sequence >= 0),
            status     text, -- none before the first ticket
            skip_to    bigint           NOT NULL DEFAULT 0, -- tickets up to this one may be missing: it was dropped
            updated_at timestamptz      NOT NULL DEFAULT now()
        ) WITH (fillfactor = 70);
    ELSIF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = to_regclass('{orders}') AND attname = 'skip_to' AND NOT attisdropped
    ) THEN
        ALTER TABLE {orders} ADD COLUMN skip_to bigint NOT NULL DEFAULT 0;
    END IF;
END $$;
