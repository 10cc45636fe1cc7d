"""`account`: the accounts of a node, their money and their keys."""

from __future__ import annotations

import click

from exchange.model.records import Permission
from node.cli.client_session import (
    Session,
    client_options,
    common_options,
    print_json,
    shell_command,
)
from node.cli.command_groups import (
    LENIENT,
    Group,
    check_words,
    limit_option,
    span_options,
    upper,
    wrong_text,
)
from node.cli.order_text import OrderTextError, parse_amount
from node.cli.table_layout import Cell, Column, Line, clean, table
from node.cli.tables import clock, echo
from node.views.account_views import (
    AccountChange,
    AccountRequest,
    AccountView,
    KeyView,
    PostingView,
    TransferView,
)
from node.views.node_views import SessionView


@common_options
@click.group(cls=Group)
def account() -> None:
    """Manage accounts: their money and their API keys.

    For the operator of the node. An account trades through an API key; its orders hold what they may
    cost, and it cannot spend more than it has. Accounts go by name or number; number 0 is the house,
    the operator's own.

    \b
    Examples:
      exchange-node account create alice
      exchange-node account deposit alice 1000 USD
      exchange-node account keys create alice --label bot
      exchange-node account show alice
    """


@account.command()
@click.argument("name")
@click.option("--max-open-orders", type=click.IntRange(0, 1_000_000), metavar="N")
@click.option("--orders-per-minute", type=click.IntRange(0, 1_000_000), metavar="N")
@client_options
def create(
    session: Session, name: str, max_open_orders: int | None, orders_per_minute: int | None
) -> None:
    """Make an account.

    \b
    Examples:
      exchange-node account create alice
      exchange-node account create bot-7 --max-open-orders 50 --orders-per-minute 600
    """
    request = AccountRequest(
        name=name, max_open_orders=max_open_orders, orders_per_minute=orders_per_minute
    )
    view = session.ask(lambda client: client.create_account(request))
    if session.as_json:
        print_json(view)
    else:
        click.echo(f"account {view.number}: {view.name}")
        click.echo(f"  next: {shell_command('account', 'deposit', view.name, '1000', 'USD')}")
        click.echo(f"        {shell_command('account', 'keys', 'create', view.name)}")


@click.command()
@client_options
def whoami(session: Session) -> None:
    """Show for whom commands act here: operator or account.

    Without EXCHANGE_NODE_KEY that is the operator, on the machine of the node.

    \b
    Examples:
      exchange-node whoami
      EXCHANGE_NODE_KEY=KEY:SECRET exchange-node whoami --api https://exchange.example.org
      exchange-node whoami --json | jq -r '.access'
    """
    view = session.ask(lambda client: client.session())
    if session.as_json:
        print_json(view)
        return
    for line in _describe_caller(view):
        click.echo(clean(line))


def _describe_caller(view: SessionView) -> list[str]:
    """Describe in lines for whom the node takes the caller, and by what."""
    if view.access == "operator":
        lines = ["operator: acts for the house, and with --account for any account"]
    elif view.access == "account":
        lines = [f"account {view.account}: {view.account_name}"]
    else:
        lines = ["no account: public data only; set EXCHANGE_NODE_KEY=KEY:SECRET to trade"]
    if view.authenticated_by == "key":
        label = f" ({view.key_label})" if view.key_label else ""
        lines.append(f"  by    the key {view.key}{label}")
    elif view.authenticated_by == "token":
        lines.append("  by    the operator's token of the running node, in its data directory")
    else:
        lines.append(
            "  by    no key: the node takes programs on this machine for the operator's"
            if view.access == "operator"
            else "  by    no key"
        )
    return [*lines, f"  may   {', '.join(view.permissions) or 'look'}", f"  node  {view.node_id}"]


@account.command("list")
@client_options
def list_accounts(session: Session) -> None:
    """List the accounts.

    \b
    Examples:
      exchange-node account list
      exchange-node account list --json | jq -r '.[].name'
    """
    views = session.ask(lambda client: client.accounts())
    if session.as_json:
        print_json(views)
        return
    columns = [
        Column("number", number=True),
        Column("name"),
        Column("state"),
        Column("open orders", number=True),
        Column("orders/minute", number=True),
        Column("created"),
    ]
    echo(table(columns, [_account_row(view) for view in views]))


def _account_row(view: AccountView) -> list[Cell]:
    state: Cell = ("frozen", "warn") if view.frozen else "active"
    if view.number == 0:
        return ["0", view.name, state, "any", "any", "-"]
    limits = [f"{view.max_open_orders}", f"{view.orders_per_minute}"]
    return [str(view.number), view.name, state, *limits, clock(view.created or "-")]


@account.command()
@click.argument("name")
@client_options
def show(session: Session, name: str) -> None:
    """Show an account: what it has, its keys and its open orders.

    \b
    Examples:
      exchange-node account show alice
      exchange-node account show 1 --json
    """
    view = session.ask(lambda client: client.account(name))
    balances = session.ask(lambda client: client.balances(account=name))
    keys = session.ask(lambda client: client.keys(name))
    orders = session.ask(lambda client: client.orders(account=name, limit=1000))
    if session.as_json:
        print_json(
            {"account": view, "balances": balances, "keys": keys, "open_orders": len(orders)}
        )
        return
    from node.cli.commands.ledger_commands import balance_table

    state = ", FROZEN: it may look and cancel, not trade or withdraw" if view.frozen else ""
    lines: list[Line] = [[(f"account {view.number}: ", ""), (view.name, "bold"), (state, "warn")]]
    count = "1 open order" if len(orders) == 1 else f"{len(orders)} open orders"
    lines.append([(f"  {count}", "")])
    lines += balance_table(balances) if balances else [[("  no money yet", "dim")]]
    if keys:
        lines += _key_table(keys)
    else:
        lines.append(
            [(f"  no keys: {shell_command('account', 'keys', 'create', view.name)}", "dim")]
        )
    echo(lines)


def _money_command(verb: str, summary: str, text: str) -> None:
    usage = f"exchange-node account {verb} alice 1000 USD"

    @click.argument("name")
    @click.argument("words", nargs=-1, metavar="AMOUNT ASSET")
    @click.option("--note", default="", metavar="TEXT", help="Note in the ledger.")
    @client_options
    def move(session: Session, name: str, words: tuple[str, ...], note: str) -> None:
        check_words(words)
        try:
            amount, asset = parse_amount(list(words), usage, "'deposit' and 'withdraw'")
        except OrderTextError as error:
            raise wrong_text(error) from None
        if verb == "deposit":
            view = session.ask(lambda client: client.deposit(name, asset, amount, note=note))
        else:
            view = session.ask(lambda client: client.withdraw(name, asset, amount, note=note))
        if session.as_json:
            print_json(view)
        else:
            click.echo(_describe_transfer(view, name))

    move.__doc__ = f"""{summary}

    {text}

    \b
    Examples:
      {usage}
      exchange-node account {verb} alice 0.25 BTC --note 'transfer 4711'
    """
    account.add_command(click.command(verb, context_settings=LENIENT)(move))


def _describe_transfer(view: TransferView, name: str) -> str:
    held = "" if view.balance == view.available else f", {view.available} of it available"
    what = "withdrew" if view.amount.startswith("-") else "deposited"
    return (
        f"{what} {view.amount.lstrip('-')} {view.asset} (transaction {view.transaction}): "
        f"{name} has {view.balance} {view.asset}{held}"
    )


_money_command(
    "deposit",
    "Record that an account handed over money.",
    "The node owes it to the account from then on, and the account can trade with it.",
)
_money_command(
    "withdraw",
    "Record that an account got money back.",
    "At most the available amount: cancel open orders to release what they hold.",
)


def _freeze_command(verb: str, frozen: bool, summary: str, text: str) -> None:
    @click.argument("name")
    @client_options
    def change(session: Session, name: str) -> None:
        view = session.ask(lambda client: client.freeze(name, frozen))
        if session.as_json:
            print_json(view)
        else:
            state = "frozen" if frozen else "active"
            click.echo(
                f"account {view.number}: {view.name} is {state}{_ended(view.cancelled_orders)}"
            )

    change.__doc__ = f"""{summary}

    {text}

    \b
    Examples:
      exchange-node account {verb} alice
    """
    account.add_command(click.command(verb)(change))


def _ended(orders: int) -> str:
    if not orders:
        return ""
    return f"; {orders} open {'order was' if orders == 1 else 'orders were'} cancelled"


_freeze_command(
    "freeze",
    True,
    "Freeze an account: it may only look and cancel.",
    "It can neither trade nor withdraw. Its open orders are cancelled.",
)
_freeze_command("thaw", False, "Let a frozen account trade again.", "It can withdraw again, too.")


@account.command()
@click.argument("name")
@click.option("--max-open-orders", type=click.IntRange(0, 1_000_000), metavar="N")
@click.option("--orders-per-minute", type=click.IntRange(0, 1_000_000), metavar="N")
@client_options
def limits(
    session: Session, name: str, max_open_orders: int | None, orders_per_minute: int | None
) -> None:
    """Change how many orders an account may have open, and place in a minute.

    \b
    Examples:
      exchange-node account limits alice --max-open-orders 5000
      exchange-node account limits alice --orders-per-minute 60000
    """
    if max_open_orders is None and orders_per_minute is None:
        raise click.UsageError(
            "Which limit? Give --max-open-orders, --orders-per-minute, or both.",
            ctx=click.get_current_context(),
        )
    change = AccountChange(max_open_orders=max_open_orders, orders_per_minute=orders_per_minute)
    view = session.ask(lambda client: client.change_account(name, change))
    if session.as_json:
        print_json(view)
    else:
        click.echo(
            f"account {view.number}: {view.name} may have {view.max_open_orders} open orders and "
            f"place {view.orders_per_minute} a minute"
        )


@common_options
@account.group(cls=Group)
def keys() -> None:
    """Manage the API keys of accounts.

    \b
    Examples:
      exchange-node account keys create alice
      exchange-node account keys create alice --read-only --label dashboard
      exchange-node account keys list alice
    """


@keys.command("create")
@click.argument("name")
@click.option("--read-only", is_flag=True, help="It may look, not trade.")
@click.option("--label", default="", metavar="TEXT", help="What it is for.")
@client_options
def create_key(session: Session, name: str, read_only: bool, label: str) -> None:
    """Make an API key. The secret is shown this once.

    Programs send it as 'Authorization: Bearer KEY:SECRET'; clients written for Bitfinex take the
    key and the secret as they are. Commands use EXCHANGE_NODE_KEY=KEY:SECRET.

    \b
    Examples:
      exchange-node account keys create alice --label bot
      exchange-node account keys create alice --json | jq -r '.key + ":" + .secret'
    """
    permissions: tuple[Permission, ...] = ("read",) if read_only else ("read", "trade")
    view = session.ask(lambda client: client.create_key(name, permissions=permissions, label=label))
    if session.as_json:
        print_json(view)
        return
    click.echo(f"key     {view.key}")
    click.echo(f"secret  {view.secret}")
    click.echo(f"It may {' and '.join(view.permissions)} for account {name}.")
    click.echo("Keep the secret now: it is not shown again.", err=True)


@keys.command("list")
@click.argument("name")
@client_options
def list_keys(session: Session, name: str) -> None:
    """List an account's keys, without their secrets.

    \b
    Examples:
      exchange-node account keys list alice
    """
    views = session.ask(lambda client: client.keys(name))
    if session.as_json:
        print_json(views)
    elif views:
        echo(_key_table(views))
    else:
        click.echo(f"no keys: {shell_command('account', 'keys', 'create', name)}", err=True)


def _key_table(views: list[KeyView]) -> list[Line]:
    columns = [Column("key"), Column("may"), Column("label"), Column("created"), Column("state")]
    rows: list[list[Cell]] = [
        [
            view.key,
            ", ".join(view.permissions),
            view.label or "-",
            clock(view.created),
            (f"revoked {clock(view.revoked)}", "dim") if view.revoked else "valid",
        ]
        for view in views
    ]
    return table(columns, rows)


@keys.command("revoke", context_settings=LENIENT)
@click.argument("key")
@client_options
def revoke_key(session: Session, key: str) -> None:
    """Revoke a key for good.

    \b
    Examples:
      exchange-node account keys revoke p3yQ0d8hG2xW9vKc7LzR1aTn4uYbE6sJ
    """
    check_words([key])
    view = session.ask(lambda client: client.revoke_key(key))
    if session.as_json:
        print_json(view)
    else:
        click.echo(f"key {view.key} of account {view.account} is revoked")


@account.command()
@click.argument("name")
@click.option("--asset", metavar="ASSET", help="Only this asset.")
@span_options
@limit_option
@client_options
def ledger(
    session: Session,
    name: str,
    asset: str | None,
    start: str | None,
    end: str | None,
    limit: int,
) -> None:
    """List an account's lines of the ledger, newest first.

    \b
    Examples:
      exchange-node account ledger alice
      exchange-node account ledger alice --asset USD --limit 20
    """
    views: list[PostingView] = session.ask(
        lambda client: client.ledger(
            account=name, asset=upper(asset), start=start, end=end, limit=limit
        )
    )
    if session.as_json:
        print_json(views)
    elif views:
        from node.cli.commands.ledger_commands import posting_table

        echo(posting_table(views))
    else:
        click.echo("nothing was ever moved there", err=True)
