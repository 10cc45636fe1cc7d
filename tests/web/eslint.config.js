import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    files: ["**/node/web/**/*.js"],
    languageOptions: { ecmaVersion: 2022, sourceType: "module", globals: globals.browser },
    rules: {
      complexity: ["error", 15],
      eqeqeq: "error",
      "max-lines": ["error", 400],
      "no-console": "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-restricted-properties": [
        "error",
        { property: "innerHTML", message: "build elements with h() of dom.js" },
        { property: "outerHTML", message: "build elements with h() of dom.js" },
        { object: "localStorage", message: "nothing of a session may outlive its tab" },
      ],
      "no-restricted-globals": [
        "error",
        { name: "parseFloat", message: "amounts are decimals: decimal.js" },
      ],
      "no-var": "error",
      "prefer-const": "error",
    },
  },
  {
    files: ["**/unit/**/*.js", "**/tests/web/unit/*.js"],
    languageOptions: { ecmaVersion: 2022, sourceType: "module", globals: globals.node },
  },
];
