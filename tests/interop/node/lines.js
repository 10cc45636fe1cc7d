'use strict'
// What every program here shares: its settings are the JSON of its first argument, each input line is a command,
// each output line one JSON object.

const fs = require('fs')
const readline = require('readline')

function say (object) {
  process.stdout.write(JSON.stringify(object) + '\n')
}

// start(settings), then command(object) for each line. The end of the input ends the program.
function run (start, command) {
  start(JSON.parse(process.argv[2]))
  const lines = readline.createInterface({ input: process.stdin })
  lines.on('line', (line) => {
    if (line.trim()) command(JSON.parse(line))
  })
  lines.on('close', () => process.exit(0))
}

// Paths of PEM files to what the real programs want: Buffers.
function secure (paths, extra) {
  if (!paths) return undefined
  const read = {}
  for (const name of ['key', 'cert', 'ca']) read[name] = fs.readFileSync(paths[name])
  return { ...read, ...extra }
}

// Announces until a Grape takes it (a fresh pair of Grapes does not know each other at once), then goes on.
function announce (link, service, port, interval, ready) {
  let first = true
  const again = () => link.announce(service, port, {}, (err, data) => {
    const taken = !err && Number.isInteger(data)
    if (taken && first) {
      first = false
      ready()
    }
    if (taken) return setTimeout(again, interval)
    link.lookup(service, {}, () => setTimeout(again, 100))
  })
  again()
}

module.exports = { announce, run, say, secure }
