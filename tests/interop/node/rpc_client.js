'use strict'
// The clients' commands, one output line each: {id, error, result, ms}.
//   {id, service, payload, opts}            request; opts: timeout, retry, compress, headers
//   {id, service, payload, opts, map: true} map
//   {id, service, count, opts}              `count` requests at once, payload {n}; result: how many got their own n back
//   {id, service, raw, opts}                request whose body is the text `raw`
//   {id, stop: true}                        stops the peer

const Link = require('grenache-nodejs-link')
const { run, say, secure } = require('./lines')

class Raw {
  constructor (text) {
    this.text = text
  }
}

function client (PeerRPCClient, Transport) {
  const format = Transport.prototype.format
  Transport.prototype.format = function (data) {
    return data[2] instanceof Raw ? data[2].text : format.call(this, data)
  }
  let peer
  run((settings) => {
    const link = new Link({ grape: settings.grape, ...settings.link })
    link.start()
    peer = new PeerRPCClient(link, {
      secure: secure(settings.secure, { rejectUnauthorized: true })
    })
    peer.init()
    say({ ready: true })
  }, (command) => {
    const from = Date.now()
    const { id, service, opts = {} } = command
    const done = (err, result) => say({ id, error: err ? err.message : null, result, ms: Date.now() - from })
    if (command.stop) {
      peer.stop()
      return done(null, null)
    }
    if (command.map) return peer.map(service, command.payload, opts, done)
    if (command.raw !== undefined) return peer.request(service, new Raw(command.raw), opts, done)
    if (!command.count) return peer.request(service, command.payload, opts, done)
    let left = command.count
    let own = 0
    let failure = null
    for (let n = 0; n < command.count; n++) {
      peer.request(service, { n }, opts, (err, result) => {
        if (err) failure = err
        else if (result && result.n === n) own++
        if (--left === 0) done(failure, own)
      })
    }
  })
}

module.exports = { client }
