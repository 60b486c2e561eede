"""Who somebody is: accounts, sign-ins and tokens, kept in PostgreSQL; tokens of others; and the one who is asked.

What they may is said elsewhere, in `rights`.
"""
