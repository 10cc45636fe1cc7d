"""The course of docs/learn: each step runs the node's own classes in virtual time and prints figures."""
