-- One row per session. The columns are what is searched by; `doc` is the whole session as JSON.
-- Numbered, so that new rows (and the rows that change) stand together at the end; rows of this size
-- would spill into overflow pages in a table WITHOUT ROWID.
CREATE TABLE sessions (
    number      INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL UNIQUE,
    key_hash    TEXT,               -- keyed hash of the idempotency key with its scope
    order_ref   TEXT,
    operation   TEXT    NOT NULL,
    user_ref    TEXT,
    gateway     TEXT,
    started_at  INTEGER NOT NULL,   -- epoch milliseconds, as are all times
    version     INTEGER NOT NULL,
    state       TEXT    NOT NULL,
    outcome     TEXT    NOT NULL,
    listed      INTEGER NOT NULL,   -- live, or nobody knows whether it was charged
    locks_order INTEGER NOT NULL,   -- the order is open, unknown or charged (2: beside another session)
    finished_at INTEGER,
    doc         BLOB    NOT NULL,
    unpaid      INTEGER NOT NULL AS (NOT listed AND outcome <> 'charged')
);

CREATE UNIQUE INDEX sessions_key ON sessions (key_hash) WHERE key_hash IS NOT NULL;
-- The order lock, also if the code forgot to ask: two sessions cannot hold one order.
CREATE UNIQUE INDEX sessions_locked_order ON sessions (operation, order_ref)
    WHERE locks_order = 1 AND order_ref IS NOT NULL;
CREATE INDEX sessions_order ON sessions (order_ref) WHERE order_ref IS NOT NULL;
-- With its time: a shop's guests may all be one user.
CREATE INDEX sessions_user ON sessions (user_ref, started_at) WHERE user_ref IS NOT NULL;
CREATE INDEX sessions_started ON sessions (started_at);
CREATE INDEX sessions_gateway ON sessions (gateway, started_at);
-- Those that are rare. They cost a payment that is completed nothing: that is never in them.
CREATE INDEX sessions_ended_otherwise ON sessions (state, started_at)
    WHERE NOT listed AND state <> 'COMPLETED';
CREATE INDEX sessions_unpaid ON sessions (started_at) WHERE unpaid;
CREATE INDEX sessions_listed ON sessions (started_at) WHERE listed;

-- The gateway's answer, sealed (AES-GCM), for as long as it is replayed.
CREATE TABLE answers (
    session INTEGER PRIMARY KEY,    -- its number
    kept_at INTEGER NOT NULL,
    sealed  BLOB    NOT NULL
);

-- The backend's request, sealed (AES-GCM), where its route keeps it: only while it may be sent again.
CREATE TABLE requests (
    session INTEGER PRIMARY KEY,    -- its number
    sealed  BLOB    NOT NULL
);

-- Written to find out whether the disk takes writes again.
CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), at INTEGER NOT NULL);
