"""The distributed hash table under a Grape: Kademlia over UDP (BEP 5, BEP 44), without I/O."""
