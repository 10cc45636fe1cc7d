"""Tables and views of the drop copy in PostgreSQL, in the schema `exchange`, as a list of migrations. The third one
is `node.annexes.export.postgres_months`.

A migration that was released is never changed: another change is another migration.
"""

from __future__ import annotations

from typing import Final

from node.annexes.export.tables import TABLES, ColumnKind, Table

SCHEMA: Final = "exchange"
TYPES: Final[dict[ColumnKind, str]] = {
    "text": "text",
    "integer": "bigint",
    "number": "numeric",
    "time": "timestamptz",
    "boolean": "boolean",
}


def table_text(table: Table) -> str:
    """Return the statement that creates a table."""
    columns = ", ".join(
        f"{name} {TYPES[kind]}{' NOT NULL' if at < table.key or name == 'frame' else ''}"
        for at, (name, kind) in enumerate(table.columns)
    )
    key = ", ".join(table.names[: table.key])
    return f"CREATE TABLE {SCHEMA}.{table.name} ({columns}, PRIMARY KEY ({key}));"


_BALANCES: Final = f"""\
-- Balance of every holder in every asset.
CREATE VIEW {SCHEMA}.balances AS
    SELECT DISTINCT ON (node, holder, asset) node, holder, asset, balance, time
    FROM {SCHEMA}.postings ORDER BY node, holder, asset, transaction DESC, line DESC;
"""  # noqa: S608 - of constants

VIEWS: Final = f"""\
-- Debt of each node to each other one. Negative: the other one owes.
CREATE VIEW {SCHEMA}.peer_positions AS
    SELECT node, substr(holder, 6) AS peer, asset, balance AS owed, time,
        substr(holder, 6) IN (SELECT node FROM {SCHEMA}.positions) AS own
    FROM {SCHEMA}.balances WHERE holder LIKE 'peer:%';
-- The same over all nodes of the database, with nodes outside it alone.
CREATE VIEW {SCHEMA}.obligations AS
    SELECT peer, asset, sum(owed) AS owed FROM {SCHEMA}.peer_positions WHERE NOT own GROUP BY peer, asset;
-- Every trade of own nodes once, also if both sides are own nodes.
CREATE VIEW {SCHEMA}.own_trades AS
    SELECT taker, take, market, min(price) AS price, min(quantity) AS quantity, min(time) AS time,
        max(CASE WHEN role = 'taker' THEN side ELSE CASE side WHEN 'buy' THEN 'sell' ELSE 'buy' END END) AS side,
        max(CASE WHEN role = 'maker' THEN node ELSE counterparty END) AS maker,
        count(*) > 1 AS internal
    FROM {SCHEMA}.fills GROUP BY taker, take, market;
-- Every trade that any node saw, once.
CREATE VIEW {SCHEMA}.public_trades AS
    SELECT DISTINCT ON (taker, take, maker) market, maker, taker, take, side, price, quantity, time
    FROM {SCHEMA}.trades ORDER BY taker, take, maker, node;
CREATE VIEW {SCHEMA}.daily_volume AS
    SELECT date_trunc('day', time) AS day, market, count(*) AS trades, sum(quantity) AS quantity,
        sum(price * quantity) AS value
    FROM {SCHEMA}.own_trades GROUP BY 1, 2;
CREATE VIEW {SCHEMA}.daily_fees AS
    SELECT date_trunc('day', time) AS day, node, account, fee_asset AS asset, sum(fee) AS fees
    FROM {SCHEMA}.fills WHERE fee <> 0 GROUP BY 1, 2, 3, 4;
CREATE VIEW {SCHEMA}.counterparties AS
    SELECT node, counterparty, market, count(*) AS trades, sum(quantity) AS quantity,
        sum(price * quantity) AS value, min(time) AS first, max(time) AS last
    FROM {SCHEMA}.fills GROUP BY 1, 2, 3;
"""  # noqa: S608 - of constants

_FIRST: Final = "\n".join(
    [
        *(table_text(table) for table in TABLES.values()),
        f"""  -- PostgreSQL 14 or later
CREATE TABLE {SCHEMA}.positions (
    node text PRIMARY KEY, frame bigint NOT NULL, checksum bigint NOT NULL, detail jsonb NOT NULL,
    updated timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE {SCHEMA}.gaps (
    node text NOT NULL, first_frame bigint NOT NULL, last_frame bigint NOT NULL,
    noted timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (node, first_frame));
CREATE INDEX orders_account ON {SCHEMA}.orders (node, account, updated);
CREATE INDEX fills_time ON {SCHEMA}.fills (time);
CREATE INDEX fills_trade ON {SCHEMA}.fills (taker, take);
CREATE INDEX fills_order ON {SCHEMA}.fills (node, order_number);
CREATE INDEX postings_holder ON {SCHEMA}.postings (node, holder, asset, transaction, line);
CREATE INDEX postings_time ON {SCHEMA}.postings (time);
CREATE INDEX trades_time ON {SCHEMA}.trades (market, time);

{_BALANCES}{VIEWS}-- Candles of a market: SELECT * FROM exchange.candles('BTC-USD', '1 hour').
CREATE FUNCTION {SCHEMA}.candles(of_market text, length interval)
RETURNS TABLE (start timestamptz, open numeric, high numeric, low numeric, close numeric, volume numeric,
    trades bigint)
LANGUAGE sql STABLE AS $$
    SELECT date_bin(length, time, 'epoch'::timestamptz), (array_agg(price ORDER BY time, taker, take))[1],
        max(price), min(price), (array_agg(price ORDER BY time DESC, taker DESC, take DESC))[1],
        sum(quantity), count(*)
    FROM {SCHEMA}.public_trades WHERE market = of_market GROUP BY 1 ORDER BY 1
$$;
""",  # noqa: S608 - of constants
    ]
)

SETTLEMENTS: Final = f"""\
CREATE VIEW {SCHEMA}.settlements AS
    SELECT node, substr(holder, 6) AS peer, asset, amount, balance AS owed, time, reference AS note, transaction
    FROM {SCHEMA}.postings WHERE kind = 'settlement' AND holder LIKE 'peer:%';
"""  # noqa: S608 - of constants

_SECOND: Final = f"""
-- Obligations settled between nodes. Positive: received from the peer.
{SETTLEMENTS}CREATE INDEX postings_settlements ON {SCHEMA}.postings (time) WHERE kind = 'settlement';
DROP FUNCTION {SCHEMA}.candles(text, interval);
-- Candles of a market: SELECT * FROM exchange.candles('BTC-USD', '1 hour', now() - interval '7 days').
CREATE FUNCTION {SCHEMA}.candles(of_market text, length interval, since timestamptz DEFAULT '-infinity')
RETURNS TABLE (start timestamptz, open numeric, high numeric, low numeric, close numeric, volume numeric,
    trades bigint)
LANGUAGE sql STABLE AS $$
    SELECT date_bin(length, time, 'epoch'::timestamptz), (array_agg(price ORDER BY time, taker, take))[1],
        max(price), min(price), (array_agg(price ORDER BY time DESC, taker DESC, take DESC))[1],
        sum(quantity), count(*)
    FROM (
        SELECT DISTINCT ON (taker, take, maker) time, taker, take, price, quantity FROM {SCHEMA}.trades
        WHERE market = of_market AND (since = '-infinity' OR time >= date_bin(length, since, 'epoch'::timestamptz))
        ORDER BY taker, take, maker, node
    ) AS seen GROUP BY 1 ORDER BY 1
$$;
"""  # noqa: S608 - of constants

EARLIER: Final = (_FIRST, _SECOND)
