/* For the helpers of BCC that agentwatch does not use. */
#define PAGE_SIZE 4096
