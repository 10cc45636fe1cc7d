'use strict'
// Many real Grapes in one process; the first is the bootstrap node of all others. Settings: {ports: of the DHT
// sockets}. As soon as all are bound the last one announces a service, until another one holds it: a Grape that
// knows no other one refuses at once. Then says {"ms", "holders"}, the time counted from there.

const Grape = require('grenache-grape').Grape
const { run, say } = require('./lines')

run(({ ports }) => {
  let waiting = ports.length
  for (const port of ports) {
    const bootstrap = port === ports[0] ? [] : [`127.0.0.1:${ports[0]}`]
    const grape = new Grape({ dht_port: port, dht_bootstrap: bootstrap, host: '127.0.0.1' })
    grape.createNode((err, node) => {
      if (err) throw err
      grape.node = node
      if (--waiting === 0) announce(grape, performance.now())
    })
  }
}, () => {})

function announce (grape, since) {
  grape.announce('first', 1337, (err, holders) => {
    if (err) return setTimeout(announce, 5, grape, since)
    say({ ms: performance.now() - since, holders })
  })
}
