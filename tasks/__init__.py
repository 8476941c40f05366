"""The clients' work as Prefect tasks: retries, names, what the UI shows. No algorithm lives here.

Task runs bear no tags: for every new set of tags Prefect starts a service that asks for slots, about 2 s each.
"""
