'use strict'
// For `mocha --require`: every `Grape` of the original suites is one of ours. Its methods are requests to its HTTP API;
// starting, stopping and events go through one process of tests/interop/our_grapes.py, which has all Grapes of a suite.
// PYTHON: the interpreter; ROOT: the top of the repository.

const Events = require('events')
const Module = require('module')
const http = require('http')
const path = require('path')
const readline = require('readline')
const { spawn } = require('child_process')

const grapes = new Map()
const waiting = new Map()
let last = 0
let host

function command (what, cb) {
  if (!host) {
    host = spawn(process.env.PYTHON, ['-m', 'tests.interop.our_grapes'], {
      cwd: process.env.ROOT,
      stdio: ['pipe', 'pipe', 'inherit']
    })
    readline.createInterface({ input: host.stdout }).on('line', (line) => {
      const said = JSON.parse(line)
      if (said.event) {
        const grape = grapes.get(said.grape)
        return grape && grape.emit(said.event)
      }
      const cb = waiting.get(said.id)
      waiting.delete(said.id)
      cb(said.error ? new Error(said.error) : null)
    })
  }
  const id = ++last
  waiting.set(id, cb)
  host.stdin.write(JSON.stringify({ id, ...what }) + '\n')
  return id
}

const agent = new http.Agent({ keepAlive: true })
const noop = () => {}

class Grape extends Events {
  constructor (conf) {
    super()
    this.conf = conf
  }

  start (cb = noop) {
    this.number = command({ start: this.conf }, (err) => cb(err || undefined))
    grapes.set(this.number, this)
  }

  stop (cb = noop) {
    if (!this.number) return cb()
    const number = this.number
    this.number = null
    command({ stop: number }, (err) => {
      grapes.delete(number)
      cb(err || undefined)
    })
  }

  announce (name, port, cb = noop) { this.ask('announce', [name, port], Number.isInteger, cb) }
  lookup (name, cb = noop) { this.ask('lookup', name, Array.isArray, cb) }
  put (data, cb = noop) { this.ask('put', data, (found) => /^[0-9a-f]{40}$/.test(found), cb) }
  get (data, cb = noop) { this.ask('get', data, (found) => typeof found === 'object', cb) }

  ask (kind, data, fine, cb) {
    const req = http.request({
      host: '127.0.0.1', port: this.conf.api_port, path: `/${kind}`, method: 'POST', agent
    }, (res) => {
      const parts = []
      res.on('data', (part) => parts.push(part))
      res.on('end', () => {
        const found = JSON.parse(Buffer.concat(parts).toString() || 'null')
        return fine(found) ? cb(null, found) : cb(new Error(found))
      })
    })
    req.on('error', cb)
    req.end(JSON.stringify({ rid: 'x', data }))
  }
}

const original = path.join(__dirname, '..', 'node_modules', 'grenache-grape') + path.sep
const load = Module._load
Module._load = function (request, parent, isMain) {
  let found = null
  try {
    found = Module._resolveFilename(request, parent, isMain)
  } catch (err) {
    return load.apply(this, arguments)
  }
  if (found === original + 'index.js') return { Grape }
  if (found === path.join(original, 'lib', 'Grape.js')) return Grape
  return load.apply(this, arguments)
}
