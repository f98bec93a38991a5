// For @hey-api/openapi-ts, in the folder that holds the document. Node.js runs what comes out as it is, and then wants
// the extension in every import.
export default {
  input: "openapi.json",
  output: { path: "hey_api", module: { extension: ".ts" } },
  plugins: ["@hey-api/client-fetch", "@hey-api/typescript", "@hey-api/sdk"],
  logs: { level: "error", file: false },
};
