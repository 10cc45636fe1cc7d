'use strict'
// The real Link. Settings: {grape, link?: {...}}. Commands, one output line each, {id, error, code, data, ms}:
//   {id, method, args}      lookup, announce, put or get; {"hex": "..."} in an argument becomes a Buffer
//   {id, announcing: {service, port, interval}}   startAnnouncing; answered after its first announcement

const Link = require('grenache-nodejs-link')
const { run, say } = require('./lines')

function buffers (value) {
  if (!value || typeof value !== 'object') return value
  if (value.hex) return Buffer.from(value.hex, 'hex')
  const made = Array.isArray(value) ? [] : {}
  for (const name of Object.keys(value)) made[name] = buffers(value[name])
  return made
}

let link

run((settings) => {
  link = new Link({ grape: settings.grape, ...settings.link })
  link.start()
  say({ ready: true })
}, ({ id, method, args, announcing }) => {
  const from = Date.now()
  const done = (err, data) => {
    say({ id, error: err ? err.message : null, code: err ? err.code : null, data, ms: Date.now() - from })
  }
  if (announcing) return link.startAnnouncing(announcing.service, announcing.port, announcing, done)
  args = buffers(args)
  if (method === 'lookup' || method === 'announce') args.push({})
  link[method](...args, done)
})
