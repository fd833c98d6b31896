"""The whole agent in simulation: real engine, state, scanner, disk and transfers; only time, network,
server and the instants of death are played. One seed gives one trace."""
