"""How tenants move between the cells of a zone: states, plan, check, execute. Only `execute` does anything."""
