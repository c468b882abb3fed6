// Which plugins a name stands for.
import { useApi } from './data.js';
import { useMemo } from './lib.js';

/**
 * The plugins of `names`, which has the names of plugins and groups with commas between; null for all.
 *
 * Members of a group are only known once the mesh has told them.
 */
export function useMembers(names) {
  const { data } = useApi('instances', { names }, { enabled: names !== '' });
  return useMemo(() => names && new Set([...names.split(','), ...(data?.instances ?? []).map(({ name }) => name)]), [names, data]) || null;
}
