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
        accounts.set_active(url, account, is_active=True)
    print(f"{account} is active")


@users.command()
@account_argument
def deactivate(account: str) -> None:
    """Deactivate the account of an e-mail address or id.

    Its tokens stop working at once. `todochat users activate` takes it back.
    """
    from service.commands import accounts

    with owner_url() as url:
        accounts.set_active(url, account, is_active=False)
    print(f"{account} is inactive")


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
