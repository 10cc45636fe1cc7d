'use strict'
// A real client in a closed loop. Settings: {kind: "http" or "ws", grape}. Says {"ready": true}. Commands:
//   {service, payload, inFlight, seconds}  says {calls, failed, ms, cpu, p50, p99, error}; times in ms, cpu: of this process
//   {service, payload, inFlight, count}    the same with {used: [results]}; says {"half": first result} after half of them

const { performance } = require('perf_hooks')
const Link = require('grenache-nodejs-link')
const { run, say } = require('./lines')

let peer

run((settings) => {
  const { PeerRPCClient } = require(`grenache-nodejs-${settings.kind}`)
  const link = new Link({ grape: settings.grape })
  link.start()
  peer = new PeerRPCClient(link, {})
  peer.init()
  say({ ready: true })
}, ({ service, payload, inFlight, seconds, count }) => {
  const took = []
  const used = new Set()
  let started = 0
  let failed = 0
  let error = null
  let running = inFlight
  const began = performance.now()
  const used0 = process.cpuUsage()
  const more = () => count ? started < count : performance.now() - began < seconds * 1000
  const one = () => {
    if (!more()) {
      if (--running === 0) end()
      return
    }
    started++
    const sent = performance.now()
    peer.request(service, payload, { timeout: 5000 }, (err, result) => {
      took.push(performance.now() - sent)
      if (err) {
        failed++
        error = err.message
      } else if (count) used.add(result)
      if (count && took.length === count / 2) say({ half: [...used][0] })
      one()
    })
  }
  const end = () => {
    const ms = performance.now() - began
    const { user, system } = process.cpuUsage(used0)
    const cpu = (user + system) / 1000
    took.sort((a, b) => a - b)
    const at = (share) => took[Math.min(took.length - 1, Math.floor(took.length * share))]
    say({ calls: took.length, failed, ms, cpu, p50: at(0.5), p99: at(0.99), error, used: count ? [...used] : undefined })
  }
  for (let i = 0; i < inFlight; i++) one()
})
