export const title = 'Tree';
export default function Tree() { return null; }
