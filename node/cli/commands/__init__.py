"""Commands of `exchange-node`, a module for each subject. `node.cli.main` lists them and loads one at a time."""
