/** Many clients at one endpoint: read some rows, add 1 to each, save. What was saved must be in the database. */

export interface HammerResult {
  requests: number;
  saved: number;
  conflicts: number;
  /** Answers that are neither, by status and message. */
  other: string[];
}

/**
 * @param url of the service, on this machine
 * @param rows how many articles each request increments
 */
export async function hammer(url: string, rows: number, clients: number, requestsEach: number): Promise<HammerResult> {
  const result: HammerResult = { requests: 0, saved: 0, conflicts: 0, other: [] };
  const ids = Array.from({ length: rows }, (_, i) => i + 1);
  const client = async () => {
    for (let i = 0; i < requestsEach; i++) {
      const response = await fetch(`${url}/articles/hits`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ids }),
      });
      const answer = (await response.json()) as { detail?: string };
      result.requests++;
      if (response.status === 200) {
        result.saved++;
      } else if (response.status === 409) {
        result.conflicts++;
      } else {
        result.other.push(`${response.status} ${answer.detail}`);
      }
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  return result;
}
