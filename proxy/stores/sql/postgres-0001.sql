-- What the tables are, and what a person said of them. A script that an earlier Holdfast cannot run
-- beside raises `compatible_from` to its own number; else replicas of two versions share the tables.
CREATE TABLE meta (
    one             boolean PRIMARY KEY DEFAULT true CHECK (one),
    schema          int     NOT NULL,
    compatible_from int     NOT NULL,
    generation      int     NOT NULL,   -- raised when a person has accepted a loss
    regressed       text,               -- what was acknowledged and is not there any more
    key_mark        text                -- of the install key that all replicas have
);
INSERT INTO meta VALUES (true, 0, 1, 1, NULL, NULL);

-- One row per process, and one more for each lease it lost.
CREATE TABLE epochs (
    epoch       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mark        bigint      NOT NULL,   -- whose it is: a restored table may give a number again
    lease_until timestamptz NOT NULL,
    closed      boolean     NOT NULL DEFAULT false,
    version     text        NOT NULL
);

-- One row per session. The columns are what is searched by; `doc` is the whole session as JSON.
-- Room is left in each page, so that the next version of a row fits in beside it.
CREATE TABLE sessions (
    id          text    COLLATE "C" PRIMARY KEY,
    key_hash    text,                   -- keyed hash of the idempotency key with its scope
    order_ref   text,
    operation   text    NOT NULL,
    user_ref    text,
    gateway     text,
    started_at  bigint  NOT NULL,       -- epoch milliseconds, as are all times
    version     int     NOT NULL,
    state       text    NOT NULL,
    outcome     text    NOT NULL,
    listed      boolean NOT NULL,       -- live, or nobody knows whether it was charged
    locks_order boolean NOT NULL,       -- the order is open, unknown or charged
    displaced   boolean NOT NULL,       -- it would lock the order, but another session has it
    finished_at bigint,
    sender      bigint,                 -- the epoch whose send is in flight
    sweeper     bigint,                 -- the epoch that looks after it, if that one is gone
    op          bigint  NOT NULL,       -- which write this row is from
    confirmed   int     NOT NULL,       -- how often that write was made sure of
    doc         bytea   NOT NULL,
    -- A column of its own: with the outcome in an index an intent could not stay in its page.
    unpaid      boolean NOT NULL GENERATED ALWAYS AS (NOT listed AND outcome <> 'charged') STORED
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX sessions_key ON sessions (key_hash);
-- The order lock: two sessions cannot hold one order.
CREATE UNIQUE INDEX sessions_locked_order ON sessions (operation, order_ref)
    WHERE locks_order AND order_ref IS NOT NULL;
CREATE INDEX sessions_order ON sessions (order_ref) WHERE order_ref IS NOT NULL;
-- With its time: a shop's guests may all be one user.
CREATE INDEX sessions_user ON sessions (user_ref, started_at, id) WHERE user_ref IS NOT NULL;
CREATE INDEX sessions_started ON sessions (started_at, id);
CREATE INDEX sessions_gateway ON sessions (gateway, started_at, id);
-- Those that are rare. They cost a payment that is completed nothing: that is never in them.
CREATE INDEX sessions_ended_otherwise ON sessions (state, started_at, id)
    WHERE NOT listed AND state <> 'COMPLETED';
CREATE INDEX sessions_unpaid ON sessions (started_at, id) WHERE unpaid;
CREATE INDEX sessions_listed ON sessions (started_at, id) WHERE listed;

-- The gateway's answer, sealed (AES-GCM), for as long as it is replayed.
CREATE TABLE answers (
    session text   COLLATE "C" PRIMARY KEY,
    kept_at bigint NOT NULL,
    sealed  bytea  NOT NULL
);
CREATE INDEX answers_kept ON answers (kept_at);

-- The backend's request, sealed (AES-GCM), where its route keeps it: only while it may be sent again.
CREATE TABLE requests (
    session text  COLLATE "C" PRIMARY KEY,
    sealed  bytea NOT NULL
);
