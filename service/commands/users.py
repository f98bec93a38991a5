"""`todochat users …`: accounts as an operator sees them."""

import click

from service.commands.shared import account_argument, confirm_loss, owner_url, yes_option


@click.group()
def users() -> None:
    """List, activate, deactivate or erase accounts."""


@users.command("list")
def list_users() -> None:
    """List the accounts, oldest first."""
    from service.commands import accounts

    with owner_url() as url:
        for account in accounts.list_accounts(url):
            state = "active" if account.is_active else "inactive"
            names = f"{account.email or '-'}  {account.username or ''}".rstrip()
            print(f"{account.created_at:%Y-%m-%d}  {state:8}  {account.id}  {names}")


@users.command()
@account_argument
def activate(account: str) -> None:
    """Activate the account of an e-mail address or id."""
    from service.commands import accounts

    with owner_url() as url:
        accounts.activate(url, account)
    print(f"{account} is active")


@users.command()
@account_argument
@click.option("--unassign", is_flag=True, help="Take the account off open todos, its own and other people's.")
def deactivate(account: str, *, unassign: bool) -> None:
    """Deactivate the account of an e-mail address or id.

    Its tokens stop working at once. While open todos are assigned to it, --unassign is needed: nobody could act on
    them. `todochat users activate` takes the deactivation back, but assigns nothing again.
    """
    from service.commands import accounts

    with owner_url() as url:
        unassigned = accounts.deactivate(url, account, unassign=unassign)
    print(f"{account} is inactive")
    if unassigned:
        print(f"{unassigned:,} open todo{'s have' if unassigned > 1 else ' has'} no assignee any more")


@users.command()
@account_argument
@yes_option
def erase(account: str, *, yes: bool) -> None:
    """Erase the account of an e-mail address or id for good.

    Everything its user owns goes with it, and their audit trail. It asks first.
    """
    from service.commands import accounts

    loss = f"erases {account} with all todos, conversations and messages of the account, and its audit trail"
    with owner_url() as url:
        accounts.erase(url, account, lambda: confirm_loss([loss], yes=yes))
    print(f"{account} is erased")
