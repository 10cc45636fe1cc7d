'use strict'
// A real publisher. Settings: {grape, service, port?, interval?}. Says {"ready": true, "port"}.
// Commands: {"pub": text} says {"sent": number of sockets}; {"sockets": true} says {"sockets": number}.

const { PeerPub } = require('grenache-nodejs-ws')
const Link = require('grenache-nodejs-link')
const { announce, run, say } = require('./lines')

let service

run((settings) => {
  const link = new Link({ grape: settings.grape || 'http://127.0.0.1:1' })
  link.start()
  const peer = new PeerPub(link, {})
  peer.init()
  service = peer.transport('server')
  service.listen(settings.port || 0)
  service.socket.on('listening', () => {
    const port = service.socket.address().port
    const ready = () => say({ ready: true, port })
    if (!settings.grape) return ready()
    announce(link, settings.service, port, settings.interval || 1000, ready)
  })
}, (command) => {
  if (command.sockets) say({ sockets: service._sockets.size })
  if (command.pub !== undefined) {
    service.pub(command.pub)
    say({ sent: service._sockets.size })
  }
})
