-- Restocks that came with a key, so that one that is repeated is not a second one. Old rows may be deleted.
CREATE TABLE IF NOT EXISTS sluicegate_restocks (
    inventory    text        NOT NULL, -- the table
    product_id   text        NOT NULL,
    key          text        NOT NULL,
    quantity     bigint      NOT NULL,
    restocked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (inventory, product_id, key)
);
