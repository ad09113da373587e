"""How a picture is filtered: the methods, what each costs, and the choice between them."""
