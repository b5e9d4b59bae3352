"""How the bundled exhibit model, its texts and the vectors shipped for it are made."""
