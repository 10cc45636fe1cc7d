'use strict'
// A real subscriber. Settings: {grape, service}. Says {"connected": true}, {"message": text} (or {"binary": base64}),
// {"disconnected": true}.

const { PeerSub } = require('grenache-nodejs-ws')
const Link = require('grenache-nodejs-link')
const { run, say } = require('./lines')

run((settings) => {
  const link = new Link({ grape: settings.grape })
  link.start()
  const peer = new PeerSub(link, {})
  peer.init()
  peer.on('connected', () => say({ connected: true }))
  peer.on('disconnected', () => say({ disconnected: true }))
  peer.on('message', (data) => say(typeof data === 'string' ? { message: data } : { binary: data.toString('base64') }))
  peer.sub(settings.service, {})
}, () => {})
