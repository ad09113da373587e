"""How a picture is filtered: the methods, what each costs, and the one place that chooses."""
