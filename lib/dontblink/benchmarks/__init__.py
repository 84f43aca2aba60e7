"""Question sets: each module yields Items and scores responses; `registry` names them."""
