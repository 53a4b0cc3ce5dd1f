-- {orders} and {inventory} are put in by the flow. Tables that are there already are left as they are.
DO $$
BEGIN
    IF to_regclass('{inventory}') IS NULL THEN
        -- The stock of a product is the sum over its buckets; most have one. Each bucket keeps its own books, and the
        -- checks hold for every writer, ours or not: what is reserved was there.
        CREATE TABLE {inventory} (
            product_id         text        NOT NULL,
            bucket             smallint    NOT NULL DEFAULT 0,
            product_name       text        NOT NULL,
            available_quantity bigint      NOT NULL CHECK (available_quantity >= 0),
            reserved_quantity  bigint      NOT NULL DEFAULT 0 CHECK (reserved_quantity >= 0),
            total_quantity     bigint      NOT NULL,
            updated_at         timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (product_id, bucket),
            CHECK (available_quantity + reserved_quantity = total_quantity)
        ) WITH (fillfactor = 50);
        INSERT INTO {inventory} (product_id, product_name, available_quantity, total_quantity) VALUES
            ('PROD001', 'Laptop',      10000, 10000),
            ('PROD002', 'Mouse',       50000, 50000),
            ('PROD003', 'Cable',      100000, 100000),
            ('PROD004', 'Keyboard',    30000, 30000),
            ('PROD005', 'Monitor',     15000, 15000),
            ('PROD006', 'Webcam',      20000, 20000),
            ('PROD007', 'Headset',      5000, 5000),
            ('PROD008', 'Desk lamp',   40000, 40000),
            ('PROD009', 'Phone stand', 60000, 60000),
            ('PROD010', 'Dock',        25000, 25000);
    END IF;
    IF to_regclass('{orders}') IS NULL THEN
        CREATE TABLE {orders} (
            order_id     uuid          NOT NULL PRIMARY KEY,
            customer_id  text          NOT NULL,
            product_id   text          NOT NULL,
            quantity     integer       NOT NULL CHECK (quantity > 0),
            amount       numeric(14,2) NOT NULL CHECK (amount >= 0),
            created_at   timestamptz   NOT NULL,
            status       text          NOT NULL CHECK (status IN ('reserved', 'rejected', 'cancelled')),
            reason       text, -- of a rejection: insufficient_stock, unknown_product
            bucket       smallint, -- where the reservation was taken from, and goes back to
            cancelled_at timestamptz,
            CHECK ((status = 'rejected') = (reason IS NOT NULL)),
            CHECK ((status = 'rejected') = (bucket IS NULL))
        );
        CREATE INDEX {orders_customer} ON {orders} (customer_id, created_at DESC);
    END IF;
END $$;
