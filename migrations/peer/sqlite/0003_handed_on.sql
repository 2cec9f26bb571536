-- Mail of sessions that ended before they had seen it, and pings.

-- Whether the member reads it in place of the session that it was for.
ALTER TABLE inbox ADD COLUMN handed_on INTEGER NOT NULL DEFAULT 0 CHECK (handed_on IN (0, 1));

-- Whether it only measures the way: such messages are listed only when asked for.
ALTER TABLE outbox ADD COLUMN ping INTEGER NOT NULL DEFAULT 0 CHECK (ping IN (0, 1));
