/** `npm run lint`: what is a mistake in any style. */

import js from "@eslint/js";
import globals from "globals";

export default [
  { ignores: ["dist/"] },
  js.configs.recommended,
  {
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "eqeqeq": "error",
      "no-else-return": "error",
      "no-implicit-globals": "error",
      "no-shadow": "error",
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
      "prefer-template": "error",
    },
  },
  { files: ["*.js"], languageOptions: { globals: { ...globals.browser, ...globals.worker } } },
  { files: ["*.mjs", "eslint.config.js"], languageOptions: { globals: globals.node } },
];
