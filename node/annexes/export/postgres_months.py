"""The third migration: fills, postings and public trades by month, so that old months are dropped at once.

Rules of this file:
- Months before `retention.kept_from` are gone. The last balances in them are opening balances.
- Times of others' trades are what others sign: months in the far future have no part of their own, their rows are in
  the rest.
"""

from __future__ import annotations

from typing import Final

from node.annexes.export.postgres_schema import SCHEMA, SETTLEMENTS, TYPES, VIEWS
from node.annexes.export.tables import TABLES, Table


def _by_month(table: Table) -> str:
    """Return the statements that split a table by the months of its rows."""
    name = f"{SCHEMA}.{table.name}"
    columns = ", ".join(
        f"{column} {TYPES[kind]}{' NOT NULL' if at < table.key or column == 'frame' else ''}"
        for at, (column, kind) in enumerate(table.columns)
    )
    key = ", ".join(table.names[: table.key])
    return f"""
ALTER TABLE {name} RENAME TO {table.name}_whole;
ALTER TABLE {name}_whole DROP CONSTRAINT {table.name}_pkey;
CREATE TABLE {name} ({columns}, PRIMARY KEY ({key}, time)) PARTITION BY RANGE (time);
CREATE TABLE {name}_rest PARTITION OF {name} DEFAULT;
SELECT {SCHEMA}.month('{table.name}', found.month)
    FROM (SELECT DISTINCT date_trunc('month', time, 'UTC') AS month FROM {name}_whole) AS found;
INSERT INTO {name} SELECT * FROM {name}_whole;
DROP TABLE {name}_whole;
"""  # noqa: S608 - of constants


MONTHS: Final = f"""
SET LOCAL statement_timeout = 0;
DROP VIEW {SCHEMA}.settlements, {SCHEMA}.counterparties, {SCHEMA}.daily_fees, {SCHEMA}.daily_volume,
    {SCHEMA}.public_trades, {SCHEMA}.own_trades, {SCHEMA}.obligations, {SCHEMA}.peer_positions, {SCHEMA}.balances;
CREATE TABLE {SCHEMA}.retention (table_name text PRIMARY KEY, kept_from timestamptz NOT NULL);
CREATE TABLE {SCHEMA}.opening_balances (
    node text NOT NULL, holder text NOT NULL, asset text NOT NULL, balance numeric, time timestamptz NOT NULL,
    transaction bigint NOT NULL, line bigint NOT NULL, PRIMARY KEY (node, holder, asset));
CREATE FUNCTION {SCHEMA}.month(of_table text, at timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first timestamptz := date_trunc('month', at, 'UTC');
    after timestamptz := date_trunc('month', first + interval '32 days', 'UTC');
    part text := of_table || to_char(first AT TIME ZONE 'UTC', '_YYYY_MM');
BEGIN
    IF first < '2000-01-01 UTC' OR first > now() + interval '31 days'
        OR to_regclass('{SCHEMA}.' || part) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE {SCHEMA}.%I PARTITION OF {SCHEMA}.%I FOR VALUES FROM (%L) TO (%L)',
        part, of_table, first, after);
EXCEPTION WHEN check_violation OR duplicate_table THEN
    NULL;  -- rows of that month came before their time, and stay in the rest; or another node made it
END $$;
{"".join(_by_month(table) for table in TABLES.values() if table.dated)}
CREATE INDEX fills_time ON {SCHEMA}.fills (time);
CREATE INDEX fills_trade ON {SCHEMA}.fills (taker, take);
CREATE INDEX fills_order ON {SCHEMA}.fills (node, order_number);
CREATE INDEX postings_holder ON {SCHEMA}.postings (node, holder, asset, transaction, line);
CREATE INDEX postings_time ON {SCHEMA}.postings (time);
CREATE INDEX postings_settlements ON {SCHEMA}.postings (time) WHERE kind = 'settlement';
CREATE INDEX trades_time ON {SCHEMA}.trades (market, time);
-- Drops the months that end before a time, and returns the number of tables.
CREATE FUNCTION {SCHEMA}.drop_months(before timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    part record;
    gone integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('{SCHEMA}.drop_months'));
    FOR part IN
        SELECT of_table, name, date_trunc('month', first + interval '32 days', 'UTC') AS after FROM (
            SELECT parent.relname AS of_table, child.relname AS name,
                to_date(right(child.relname, 7), 'YYYY_MM')::timestamp AT TIME ZONE 'UTC' AS first
            FROM pg_inherits JOIN pg_class parent ON parent.oid = inhparent JOIN pg_class child ON child.oid = inhrelid
            WHERE parent.relnamespace = '{SCHEMA}'::regnamespace AND parent.relkind = 'p'
                AND child.relname ~ '_[0-9]{{4}}_[0-9]{{2}}$'
        ) AS parts ORDER BY first
    LOOP
        CONTINUE WHEN part.after > before;
        IF part.of_table = 'postings' THEN
            EXECUTE format('INSERT INTO {SCHEMA}.opening_balances AS old
                SELECT DISTINCT ON (node, holder, asset) node, holder, asset, balance, time, transaction, line
                FROM {SCHEMA}.%I ORDER BY node, holder, asset, transaction DESC, line DESC
                ON CONFLICT (node, holder, asset) DO UPDATE SET balance = excluded.balance, time = excluded.time,
                    transaction = excluded.transaction, line = excluded.line
                WHERE (old.transaction, old.line) < (excluded.transaction, excluded.line)', part.name);
        END IF;
        EXECUTE format('DROP TABLE {SCHEMA}.%I', part.name);
        gone := gone + 1;
        INSERT INTO {SCHEMA}.retention AS old VALUES (part.of_table, part.after)
            ON CONFLICT (table_name) DO UPDATE SET kept_from = greatest(old.kept_from, excluded.kept_from);
    END LOOP;
    RETURN gone;
END $$;
-- Balance of every holder in every asset.
CREATE VIEW {SCHEMA}.balances AS
    SELECT DISTINCT ON (node, holder, asset) node, holder, asset, balance, time
    FROM (
        SELECT node, holder, asset, balance, time, transaction, line FROM {SCHEMA}.postings
        UNION ALL SELECT node, holder, asset, balance, time, transaction, line FROM {SCHEMA}.opening_balances
    ) AS found ORDER BY node, holder, asset, transaction DESC, line DESC;
{VIEWS}{SETTLEMENTS}"""  # noqa: S608 - of constants
