/**
 * Shapes of the API's messages, as far as the page reads them. The full list: /openapi.json and
 * /asyncapi.json.
 *
 * @typedef {"buy" | "sell"} Side
 * @typedef {[price: string, quantity: string, orders: number]} Level
 * @typedef {[id: string, price: string, quantity: string, time: string, own: boolean]} RestingOrder
 *
 * @typedef {object} Session
 * @property {string} node_id
 * @property {string} version
 * @property {number | null} account
 * @property {string | null} account_name
 * @property {boolean} operator
 * @property {string[]} permissions
 * @property {string | null} key
 * @property {boolean} keys_required
 * @property {boolean} desk
 *
 * @typedef {object} Market
 * @property {string} symbol
 * @property {string} base
 * @property {string} quote
 * @property {string} tick
 * @property {string} lot
 * @property {string | null} min_quantity
 * @property {string | null} max_quantity
 * @property {string | null} min_notional
 * @property {string | null} max_notional
 * @property {string | null} price_band
 * @property {string} protection
 *
 * @typedef {object} Ticker
 * @property {string} market
 * @property {string | null} bid
 * @property {string | null} ask
 * @property {string | null} last
 * @property {string} change
 * @property {string | null} high
 * @property {string | null} low
 * @property {string} volume
 * @property {string} time
 *
 * @typedef {object} Trade
 * @property {string} id
 * @property {string} market
 * @property {Side} side
 * @property {string} price
 * @property {string} quantity
 * @property {string} time
 * @property {string} maker
 * @property {string} taker
 *
 * @typedef {object} Candle
 * @property {string} time
 * @property {string} open
 * @property {string} high
 * @property {string} low
 * @property {string} close
 * @property {string} volume
 * @property {number} trades
 *
 * @typedef {object} Order
 * @property {string} id
 * @property {number} number
 * @property {string} market
 * @property {Side} side
 * @property {string} type
 * @property {string | null} price
 * @property {string} quantity
 * @property {string} filled
 * @property {string} remaining
 * @property {string} pending
 * @property {string | null} [pending_until]
 * @property {string} status
 * @property {string | null} average_price
 * @property {string} created
 * @property {string | null} client_id
 * @property {string} reason
 * @property {string} tif
 * @property {string | null} expires
 * @property {boolean} post_only
 * @property {boolean} hidden
 * @property {boolean} reduce_only
 * @property {string | null} stop
 *
 * @typedef {object} Fill
 * @property {string} id
 * @property {string} market
 * @property {string} order_id
 * @property {string} role
 * @property {Side} side
 * @property {string} price
 * @property {string} quantity
 * @property {string} time
 * @property {string} counterparty
 * @property {string} fee
 * @property {string} fee_asset
 *
 * @typedef {object} Balance
 * @property {string} asset
 * @property {string} total
 * @property {string} held
 * @property {string} available
 *
 * @typedef {object} Fees
 * @property {string} market
 * @property {string} maker_fee
 * @property {string} taker_fee
 *
 * @typedef {object} Halt
 * @property {string} market
 * @property {boolean} halted
 * @property {string} reason
 */
export {};
