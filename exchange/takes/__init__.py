"""Trading with other nodes' orders: take protocol, maker and taker side, fill or kill, credit."""
