"""Problem codes about orders, accounts, keys and money: code -> (title, explanation and remedy)."""

from __future__ import annotations

from typing import Final

TRADING_CODES: Final[dict[str, tuple[str, str]]] = {
    # The caller
    "key_required": (
        "Key required",
        "Send an API key: `Authorization: Bearer KEY:SECRET`. The operator makes one with "
        "`exchange-node account keys create`.",
    ),
    "bad_authorization": (
        "Bad Authorization header",
        "It must be `Authorization: Bearer KEY:SECRET`, once, with neither of them empty. Keys are not read from other "
        "headers or from the query. Leave the header out to be the operator, where keys are optional; `GET /v1/session` "
        "says who the caller is.",
    ),
    "bad_key": ("Bad key", "Unknown API key or wrong secret."),
    "bad_token": (
        "Bad operator token",
        "The token is of one run of the node; node.json in its data directory has it.",
    ),
    "key_revoked": ("Key revoked", "The key is not valid any more. Ask the operator for another."),
    "tls_required": (
        "TLS required",
        "Keys are not taken over plain HTTP from other machines. Use https, and make a new key in "
        "place of the one that was sent.",
    ),
    "no_permission": ("No permission", "The key may read only, or trade only."),
    "operator_only": (
        "Operator only",
        "Only the node's operator may do this, never an account's key.",
    ),
    "rate_limited": (
        "Rate limited",
        "Too many requests, or too many orders, in a minute. Wait as long as `Retry-After` says.",
    ),
    # The desk
    "no_desk": (
        "No desk",
        "Name the own nodes in a file, and start this node with `DESK_PROFILE=FILE`.",
    ),
    "bad_desk_profile": (
        "Bad desk profile",
        "The file that DESK_PROFILE names cannot be used; the detail says what is wrong in it.",
    ),
    # Accounts and money
    "unknown_account": ("Unknown account", "Unknown account; GET /v1/accounts lists them."),
    "unknown_asset": ("Unknown asset", "No market of this node trades it; GET /v1/markets."),
    "unknown_key": ("Unknown key", "Unknown API key."),
    "account_frozen": (
        "Account frozen",
        "A frozen account may look and cancel, not trade or withdraw.",
    ),
    "insufficient_balance": (
        "Insufficient balance",
        "The available balance is too small. Cancel open orders to release the held amount.",
    ),
    "bad_amount": ("Bad amount", "An amount is a plain decimal above 0, sent as a string."),
    "bad_name": (
        "Bad name",
        "A name has 1 to 32 letters, digits, dots, dashes and underscores, and is not a number.",
    ),
    "name_taken": ("Name taken", "Another account has this name; upper and lower case are equal."),
    "bad_limit": ("Bad limit", "A limit of an account is from 0 to 1000000."),
    "bad_label": ("Bad label", "A label is short and can be printed; permissions are read, trade."),
    "bad_note": ("Bad note", "A note has at most 200 printable characters."),
    "bad_reason": ("Bad reason", "A reason has 1 to 200 printable characters."),
    "bad_holder": ("Bad holder", "Holders are account:NAME, peer:NODE, fees and outside."),
    "bad_statement": (
        "No usable statement",
        "The other node gives no statement of its positions, or one that contradicts itself.",
    ),
    "bad_group": ("Bad group", "A group is a whole number from 0 on."),
    "bad_time": ("Bad time", "A time is ISO 8601, or milliseconds since 1970."),
    "bad_timeout": ("Bad timeout", "The dead man's switch waits 1000 to 86400000 ms; 0 ends it."),
    "too_many": (
        "Too many",
        "The node has as many accounts, or the account as many keys, as can be.",
    ),
    # Orders
    "bad_order": ("Bad order", "Parts of the order contradict each other; the detail says which."),
    "out_of_range": ("Out of range", "A number is not positive, or absurdly large."),
    "too_small": ("Too small", "The market asks for a greater quantity."),
    "too_large": ("Too large", "The market does not take so great a quantity."),
    "notional_too_small": ("Value too small", "Price times quantity is below the market's least."),
    "notional_too_large": ("Value too large", "Price times quantity is above the market's most."),
    "price_band": (
        "Price out of band",
        "The price is further from the market's than this node accepts.",
    ),
    "halted": ("Market halted", "The market takes no orders for now; they can be cancelled."),
    "same_steps": ("Same steps", "The market has the configured steps already."),
    "takes_pending": (
        "Takes pending",
        "Other nodes have not answered yet; ask again in some seconds.",
    ),
    "not_halted": ("Not halted", "The market is not halted."),
    "too_many_orders": ("Too many orders", "The account has as many open orders as it may."),
    "reduce_only": ("Reduce only", "The account has no position that the order could reduce."),
    "starting": ("Starting", "The node has just started; try again in a moment."),
    "not_primary": (
        "Not primary",
        "This machine of a node with a standby cannot prove that it is the node now; try again, or use the other machine.",
    ),
    "storage_failed": (
        "Storage failed",
        "The node cannot write its journal, because the disk is full or broken, and stops. Whether the "
        "request took effect shows after its next start: look it up, or repeat it with the same client_id.",
    ),
}
